"""The dashboard's readers over a real node and files: both say what the views say."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from adtally.pipelines.dashboard.elastic import ElasticReader
from adtally.pipelines.dashboard.log import Log
from adtally.pipelines.dashboard.reader import SUMS, Reader, Row
from adtally.pipelines.dashboard.stored import StoredReader
from adtally.pipelines.dashboard.view import HOUR_MS, View, view_of
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests.dashboards import MONTHS_LATER, START, logs
from tests.reconciling import Place

pytestmark = pytest.mark.elasticsearch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, elasticsearch_node: ElasticsearchNode) -> Place:
    """Counted once, an hour of it again, which counts the late ones, and a part of an hour."""
    folder = tmp_path_factory.mktemp("dashboard")
    place = Place.of(folder, elasticsearch_node.url)
    place.backfill(logs(folder / "logs"))
    place.retally("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T01:00:00Z")
    place.retally("--from", "2026-03-01T01:00:00Z", "--to", "2026-03-01T01:08:00Z")
    return place


@pytest.fixture(scope="module")
def log(place: Place) -> Log:
    return Log(str(place.output))


@pytest.fixture(scope="module")
def elastic(place: Place, log: Log) -> Iterator[ElasticReader]:
    with_node = ElasticReader(place.config, log.window_seconds, log.corrections)
    from adtally.io.elasticsearch import connect

    with connect(place.config) as client:
        client.indices.refresh(index=f"{place.prefix}-*")
    yield with_node
    with_node.close()


@pytest.fixture(scope="module")
def stored(log: Log) -> StoredReader:
    return StoredReader(log.address, log.window_seconds)


def views_of(*advertisers: str) -> list[View]:
    """Ranges with short and long steps, whole and cut hours, all and some advertisers."""
    some = advertisers or None
    made = [
        view_of(60, MONTHS_LATER, length, until, most)
        for most in (36, 100)
        for length, until in (
            (3 * HOUR_MS, START + 3 * HOUR_MS),
            (HOUR_MS, START + 2 * HOUR_MS - 600_000),
            (7 * 24 * HOUR_MS, START + 24 * HOUR_MS),
            (31 * 24 * HOUR_MS, START + 24 * HOUR_MS),
            (HOUR_MS, START + 100 * HOUR_MS),
        )
    ]
    return [made_one if some is None else made_one.of(*some) for made_one in made]


def by_key(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def test_lists_and_series_are_the_same_from_both(
    elastic: Reader, stored: Reader, place: Place
) -> None:
    seen = 0
    for view in (*views_of(), *views_of("acme"), *views_of("béta, & co", "c/../3")):
        for ask in ("advertisers", "series"):
            one, other = getattr(elastic, ask)(view), getattr(stored, ask)(view)
            assert by_key(one) == by_key(other), (ask, view)
            seen += len(one)
    assert seen > 200
    whole = views_of()[0]
    sums = ", ".join(f"sum({name})::BIGINT" for name in SUMS)
    [expected] = place.sql(f"SELECT {sums} FROM net_summaries WHERE window_seconds = 60")
    for reader in (elastic, stored):
        found = tuple(sum(row[name] for row in reader.series(whole)) for name in SUMS)
        assert found == expected
    by_name = dict(zip(SUMS, expected, strict=True))
    assert by_name["sivt_clicks"] + by_name["givt_clicks"] > 50
    assert by_name["net_clicks"] < by_name["clicks"] == 540 // 3 + 50 + 100 + 100


def test_a_correction_that_is_written_and_not_committed(elastic: Reader, place: Place) -> None:
    """Its documents are there, summaries with their verdicts: the net is theirs."""
    before = ElasticReader(place.config, 60, list)
    hour = view_of(60, MONTHS_LATER, HOUR_MS, START + HOUR_MS).of("acme")
    found = before.series(hour)
    assert found == elastic.series(hour) and sum(row["givt_clicks"] for row in found) > 50
    [generation] = place.sql(
        f"SELECT DISTINCT generation FROM net_summaries WHERE window_start < make_timestamp("
        f"{(START + HOUR_MS) * 1000}) AND window_seconds = 60"
    )
    assert generation == (1,)
    before.close()


def test_other_questions_are_answered_the_same(elastic: Reader, stored: Reader) -> None:
    verdicts = 0
    for who in ("acme", "béta, & co", "c/../3", "nobody"):
        for view in views_of(who):
            assert by_key(elastic.top(view, "campaign_id")) == by_key(
                stored.top(view, "campaign_id")
            ), view
            one, other = elastic.verdicts(view), stored.verdicts(view)
            assert by_key(one.rules) == by_key(other.rules)
            assert by_key(one.newest) == by_key(other.newest)
            assert elastic.anomalies(view) == stored.anomalies(view)
            assert elastic.sparks(view) == stored.sparks(view)
            verdicts += len(one.newest)
    assert verdicts > 10
