"""A live stream with a limit of rows, killed and started again: no row is counted twice."""

from __future__ import annotations

import contextlib
import datetime
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.io.views import views_sql
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import sql_oracle, streams

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

BY = ("campaign_id", "country")
MOST = 2
PREFIX = "foldedlive"
NAMES = [*(name.strip() for name in sql_oracle.MEASURES.split(",")[:13])]


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def test_documents_and_files_equal_sql_after_panes_and_a_kill(
    tmp_path: Path, kinesis_server: KinesisServer, elasticsearch_node: ElasticsearchNode
) -> None:
    logs = streams.recent_logs(tmp_path / "made", 2_400, advertisers=5)
    lines = streams.lines_of(logs)
    sql = streams.oracle(logs)
    expected = {
        seconds: in_order(
            sql_oracle.summaries(sql, 60, rollup_seconds=larger, dimensions=BY, most=MOST)
        )
        for seconds, larger in ((60, None), (3600, 3600))
    }
    assert sum(row[2] == "__other__" for row in expected[60]) > 100
    client = streams.create_stream(kinesis_server.url, PREFIX, 2)
    output = tmp_path / "out"
    given = (
        *("--source", f"kinesis://{PREFIX}", "--kinesis-region", REGION),
        *("--kinesis-endpoint", kinesis_server.url, "--output", str(output)),
        *("--watermark-lag", "2s", "--pane-every", "2s", "--flush-every", "5s", "--shards", "1"),
        *("--allowed-lateness", f"{streams.LATENESS_SECONDS}s", "--rollup", "1h"),
        *("--dimensions", ",".join(BY), "--max-rows-per-window", str(MOST)),
        *("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup"),
        *("--elasticsearch-index-prefix", PREFIX),
    )
    log = tmp_path / "stream.log"

    def indexed(seconds: int = 60) -> list[Any]:
        return searchable(elasticsearch_node.url, seconds)

    streams.put(client, PREFIX, lines[0::2], seed=1)
    with streams.running("stream", *given, log=log) as process:
        streams.until(lambda: any(row[2] == "__other__" for row in indexed()), "some are folded")
        streams.end(process, signal.SIGKILL)
    streams.put(client, PREFIX, lines[1::2], seed=2)
    with streams.running("stream", *given, log=log):
        streams.until_equal(indexed, expected[60], "Elasticsearch equals SQL")
        streams.until_equal(lambda: stored(output), expected[60], "Parquet equals SQL")
        streams.until_equal(lambda: indexed(3600), expected[3600], "so do hours")


def in_order(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=repr)


def stored(output: Path) -> list[Any]:
    keys = ", ".join(["epoch_ms(window_start)", "advertiser_id", *BY, "currency"])
    query = f"SELECT {keys}, {sql_oracle.MEASURES} FROM summaries WHERE window_seconds = 60"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(views_sql(str(output), 60, streams.LATENESS_SECONDS, BY))
        return in_order(connection.execute(query).fetchall())


def searchable(url: str, seconds: int) -> list[Any]:
    with contextlib.closing(connect(ElasticsearchConfig((url,), PREFIX))) as client:
        ready = client.cluster.health(  # one that was made this moment cannot be searched yet
            index=f"{PREFIX}-summaries-*",
            level="indices",
            wait_for_status="yellow",
            timeout="30s",
        )
        indices = list(ready["indices"])
        if not indices:
            return []
        client.indices.refresh(index=indices)
        query = {"term": {"window_seconds": seconds}}
        hits = client.search(index=indices, size=10_000, query=query)["hits"]["hits"]
    rows = []
    for row in (hit["_source"] for hit in hits):
        times = [ms(row[name]) for name in ("first_event_at", "last_event_at")]
        keys = (ms(row["window_start"]), *(row[n] for n in ("advertiser_id", *BY, "currency")))
        rows.append((*keys, *(row[name] for name in NAMES), *times))
    return in_order(rows)


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)
