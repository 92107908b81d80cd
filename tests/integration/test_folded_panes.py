"""Panes with rows that later ones fold: what readers see in the end is the last pane, no more.

Through the views from files, and through a real node, where what an earlier pane wrote has to go.
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from adtally.io.elasticsearch import ElasticsearchConfig, connect, install_templates
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_folded import delete_folded, folded_in
from adtally.io.elasticsearch_sink import WriteToElasticsearch, documents
from adtally.io.parquet import write_table
from adtally.io.summaries import StoredSummaries
from adtally.io.views import write_views
from adtally.runners.direct import direct_runner
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.transforms.rollup import roll_up
from adtally.transforms.tally import TallySpec, tally
from tests.transforms.test_tally import MINUTE, T0, event, table

BY = ("campaign_id", "country")
SPEC = TallySpec(MINUTE, 3_600_000, BY, max_rows=3)
HOUR = 60 * MINUTE
SHOWN = ("window_seconds", "advertiser_id", *BY, "currency", "clicks", "version")


def panes(seed: int) -> list[pa.Table]:
    """Summaries of ever more events of two minutes, of a crowded advertiser and two others."""
    dice = random.Random(seed)
    events = [
        event(
            event_id=str(n),
            advertiser_id=dice.choice(["crowd", "crowd", "crowd", "quiet", "calm"]),
            occurred_at=T0 + dice.choice([0, MINUTE]),
            currency=dice.choice(["EUR", "USD"]),
        )
        for n in range(60)
    ]
    for n, one in enumerate(events):
        crowd = one["advertiser_id"] == "crowd"
        one["campaign_id"] = dice.choice([None, "own", f"r{n}"]) if crowd else "own"
    return [tally([table(events[:cut])], SPEC).summaries for cut in (8, 20, 35, 60)]


def hours(of: Sequence[pa.Table]) -> pa.Table:
    return roll_up(of, HOUR, SPEC.allowed_lateness_ms, BY, max_rows=SPEC.max_rows)


def shown(summaries: pa.Table) -> list[tuple[Any, ...]]:
    rows = zip(*(summaries[name].to_pylist() for name in SHOWN), strict=True)
    return sorted(rows, key=repr)


@pytest.mark.parametrize("seed", range(5))
def test_files_of_panes_in_any_order_show_the_last(tmp_path: Path, seed: int) -> None:
    base = panes(seed)
    larger = [hours(base[: n + 1]) for n in range(len(base))]
    order = random.Random(seed).sample(range(len(base)), len(base))
    for at, n in enumerate(order):
        for seconds, of in ((60, base[n]), (3600, larger[n])):
            folder = tmp_path / "summaries" / f"window={seconds}s" / "generation=0"
            write_table(of, str(folder / "date=2024-02-29" / f"{at}.parquet"))
    connection = duckdb.connect()
    connection.execute(Path(write_views(str(tmp_path), 60, 3_600, BY)).read_text())
    found = connection.execute(f"SELECT {', '.join(SHOWN)} FROM summaries").fetchall()
    expected = shown(base[-1]) + shown(larger[-1])
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert {row[2] for row in found} > {"__other__", "own"}
    read = StoredSummaries(str(tmp_path), 60).of_date("2024-02-29", BY, ["clicks"])
    assert read["clicks"].sum() == sum(base[-1]["clicks"].to_pylist()) == 60
    assert read.height == base[-1].num_rows


@pytest.fixture
def config(elasticsearch_node: ElasticsearchNode) -> ElasticsearchConfig:
    """A set-up corner of the shared node, where nothing is searchable until it is refreshed."""
    name = f"folded{uuid.uuid4().hex[:10]}"
    made = ElasticsearchConfig((elasticsearch_node.url,), name, retry_seconds=60.0)
    with contextlib.closing(connect(made)) as client:
        install_templates(client, made)
        client.indices.create(index=f"{name}-summaries-2024.02")
        settings = {"index.refresh_interval": "-1"}
        client.indices.put_settings(index=f"{name}-summaries-*", settings=settings)
    return made


def write(config: ElasticsearchConfig, *tables: pa.Table) -> None:
    """Through a real pipeline, in one bundle."""
    options = PipelineOptions([])
    with beam.Pipeline(runner=direct_runner(options), options=options) as pipeline:
        letters = pipeline | beam.Create(tables) | WriteToElasticsearch(config, "summaries")
        assert_that(letters, equal_to([]))


def stored(config: ElasticsearchConfig) -> list[tuple[Any, ...]]:
    with contextlib.closing(connect(config)) as client:
        client.indices.refresh(index=config.index_pattern("summaries"))
        hits = client.search(index=config.index_pattern("summaries"), size=10_000)["hits"]["hits"]
    return sorted((tuple(hit["_source"][name] for name in SHOWN) for hit in hits), key=repr)


@pytest.mark.elasticsearch
@pytest.mark.parametrize("seed", range(2))
def test_documents_of_panes_are_in_the_end_those_of_the_last(
    config: ElasticsearchConfig, seed: int
) -> None:
    base = panes(seed)
    for n, pane in enumerate(base):
        write(config, pane, hours(base[: n + 1]))
        if n:  # the bundle of the pane before is tried again, when this one is written
            write(config, base[n - 1], hours(base[:n]))
        expected = shown(pane) + shown(hours(base[: n + 1]))
        assert stored(config) == sorted(expected, key=repr)


@pytest.mark.elasticsearch
def test_what_comes_back_when_a_deletion_is_forgotten_goes_with_the_next_pane(
    config: ElasticsearchConfig,
) -> None:
    first, _, third, last = panes(7)
    with contextlib.closing(connect(config)) as client:
        settings = {"index.gc_deletes": "0ms"}
        client.indices.put_settings(index=config.index_pattern("summaries"), settings=settings)
        write(config, first)
        write(config, third)
        assert stored(config) == shown(third)
        client.indices.flush(index=config.index_pattern("summaries"))
        write(config, first)
        assert len(stored(config)) > len(shown(third))  # deleted ones are there again
        write(config, last)
        assert stored(config) == shown(last)


@pytest.mark.elasticsearch
def test_a_newer_version_and_another_generation_are_never_deleted(
    config: ElasticsearchConfig,
) -> None:
    first, _, third, last = panes(8)
    with contextlib.closing(connect(config)) as client:
        bulk = BulkWriter(client, config)
        assert not bulk.write(documents(last, "summaries", config, 0))
        assert delete_folded(bulk, config, folded_in(third)) == 0
        assert stored(config) == shown(last)
        assert delete_folded(bulk, config, folded_in(last)) == 0
        corrected = _of_generation(last, 1)
        assert delete_folded(bulk, config, folded_in(corrected)) == 0
        assert stored(config) == shown(last)
        assert not bulk.write(documents(first, "summaries", config, 0))
        counts = bulk.counts
        assert delete_folded(bulk, config, folded_in(last)) > 0
        assert bulk.counts is counts
        assert stored(config) == shown(last)


def _of_generation(summaries: pa.Table, generation: int) -> pa.Table:
    frame = pl.DataFrame(pl.from_arrow(summaries)).with_columns(
        pl.lit(generation, pl.Int64).alias("generation"),
        (pl.col("version") + (generation << 40)).alias("version"),
    )
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(summaries.schema)
