"""Rules that look back, from logs and in re-tallies, row by row against SQL."""

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests import sql_oracle
from tests.pipelines.test_oracle import files, made_up, oracle, run, views

FLOOD = 5
RULES = f"rules.sivt_click_flooding.threshold = {FLOOD}"


def flags(output: Path) -> list[Any]:
    query = f"SELECT {sql_oracle.LOOK_BACK_FLAGS} FROM look_back_flags ORDER BY ALL"
    return views(output).execute(query).fetchall()


def net(output: Path, seconds: int, dimensions: tuple[str, ...] = ()) -> list[Any]:
    keys = ", ".join(["epoch_ms(window_start)", "advertiser_id", *dimensions, "currency"])
    query = f"SELECT {keys}, {sql_oracle.NET} FROM net_summaries WHERE window_seconds = {seconds}"
    return views(output).execute(f"{query} ORDER BY ALL").fetchall()


def backfill(tmp_path: Path, logs: Path, *more: str) -> Path:
    output, rules = tmp_path / "out", tmp_path / "rules.toml"
    rules.write_text(RULES)
    run(
        *("backfill", "--input", str(logs), "--output", str(output), "--rules", str(rules)),
        *more,
    )
    return output


@pytest.mark.parametrize(
    ("seed", "window", "rollup", "dimensions"),
    [
        (31, 60, 3600, ()),
        (32, 10, 86_400, ("campaign_id",)),
        (33, 300, 600, ("publisher_id", "country")),
        (34, 7200, 86_400, ()),
    ],
)
def test_flags_and_net_summaries(
    tmp_path: Path, seed: int, window: int, rollup: int, dimensions: tuple[str, ...]
) -> None:
    logs, _ = made_up(tmp_path, seed, hours=30)
    arguments = ["--dimensions", ",".join(dimensions)] if dimensions else []
    output = backfill(
        tmp_path, logs, "--window", f"{window}s", "--rollup", f"{rollup}s", *arguments
    )
    sql = oracle(logs)
    sql_oracle.summaries(sql, window, dimensions=dimensions)
    expected = sql_oracle.look_back(sql, window, FLOOD)
    assert flags(output) == expected
    assert len({row[3] for row in expected}) == 5  # of every rule
    assert net(output, window, dimensions) == sql_oracle.net(sql, window, dimensions)
    assert net(output, rollup, dimensions) == sql_oracle.net(sql, rollup, dimensions)


def test_a_retally_of_some_hours_judges_them_with_what_came_before(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 35, hours=30)
    output = backfill(tmp_path, logs)
    sql = oracle(logs)
    sql_oracle.summaries(sql, 60)
    before = sql_oracle.look_back(sql, 60, FLOOD)
    assert flags(output) == before
    # From the log, late events count; nothing changes outside of the range.
    start, end = "2026-03-01T22:00:00Z", "2026-03-02T02:00:00Z"
    run(
        *("backfill", "--input", str(output / "events"), "--output", str(output)),
        *("--from", start, "--to", end),
    )
    sql_oracle.summaries(sql, 60, late_too=True)
    after = sql_oracle.look_back(sql, 60, FLOOD)
    low, high = 1_772_402_400_000, 1_772_416_800_000
    expected = [row for row in before if not low <= int(str(row[0])) < high]
    expected += [row for row in after if low <= int(str(row[0])) < high]
    assert flags(output) == sorted(expected)
    assert after != before


def test_a_retally_of_parts_takes_no_event_off_twice(tmp_path: Path) -> None:
    """Verdicts of the hour, or sums of the day, know nothing of the new rules."""
    logs = tmp_path / "logs"
    logs.mkdir()
    click = {"event_type": "click", "advertiser_id": "a", "user_id": "u", "ip": "203.0.113.7"}
    lines = [
        json.dumps({**click, "event_id": f"c{n}", "occurred_at": f"2026-03-01T12:00:{at:06.3f}Z"})
        for n, at in enumerate(n * n * 0.131 for n in range(20))
    ]
    (logs / "clicks.jsonl").write_text("\n".join(lines))
    output = backfill(tmp_path, logs, "--rollup", "1d")
    assert invalid(output) == {60: (20, 10, 10), 86_400: (20, 10, 10)}
    rules = tmp_path / "strict.toml"
    rules.write_text("[rules.givt_click_rate_ip]\nthreshold = 5\n")
    for end, expected in (
        # The hour is cut, so rules that look back say nothing of this minute.
        ("2026-03-01T12:01:00Z", {60: (20, 20, 0), 86_400: (20, 10, 10)}),
        # The day is cut, so it stays as it was.
        ("2026-03-01T13:00:00Z", {60: (20, 20, 0), 86_400: (20, 10, 10)}),
    ):
        run(
            *("backfill", "--input", str(output / "events"), "--output", str(output)),
            *("--from", "2026-03-01T12:00:00Z", "--to", end, "--rules", str(rules)),
        )
        assert invalid(output) == expected


def invalid(output: Path) -> dict[int, tuple[int, ...]]:
    """Window size to clicks, those called invalid, and the rest."""
    query = "SELECT window_seconds, clicks, givt_clicks, net_clicks FROM net_summaries"
    return {size: tuple(rest) for size, *rest in views(output).sql(query).fetchall()}


@pytest.mark.elasticsearch
def test_documents_are_what_the_views_say_before_and_after_a_retally(
    tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    logs, _ = made_up(tmp_path, 37)
    target = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-index-prefix", "verdicts")
    output = backfill(tmp_path, logs, *target, "--elasticsearch-setup", "--dimensions", "country")
    first = documents(elasticsearch_node)
    assert first == in_views(output)
    assert len(first) > 20
    # Without a flood in these hours, documents with nothing else go.
    (tmp_path / "rules.toml").write_text("")
    run(
        *("backfill", "--input", str(output / "events"), "--output", str(output), *target),
        *("--from", "2026-03-01T01:00:00Z", "--to", "2026-03-01T03:00:00Z"),
        *("--dimensions", "country", "--rules", str(tmp_path / "rules.toml")),
    )
    second = documents(elasticsearch_node)
    assert second == in_views(output)
    assert len(second) < len(first)


def in_views(output: Path) -> list[Any]:
    query = """
        SELECT epoch_ms(window_start), advertiser_id, version, ruleset_version,
            list_transform(flags, lambda f: [f.rule, epoch_ms(f.flagged_at)::VARCHAR, f.subject]),
            list_transform(adjustments, lambda a: [epoch_ms(a.adjusted_at)::VARCHAR, a.country,
                a.currency, a.givt_clicks::VARCHAR, a.sivt_clicks::VARCHAR])
        FROM verdicts ORDER BY ALL"""
    return views(output).execute(query).fetchall()


def documents(node: ElasticsearchNode) -> list[Any]:
    config = ElasticsearchConfig((node.url,), "verdicts")
    with contextlib.closing(connect(config)) as client:
        client.indices.refresh(index="verdicts-verdicts-*")
        hits = client.search(index="verdicts-verdicts-*", size=10_000)["hits"]["hits"]
        nested = {"nested": {"path": "flags", "query": {"prefix": {"flags.rule": "sivt_"}}}}
        assert client.count(index="verdicts-verdicts-*", query=nested)["count"] > 0
    rows = []
    for hit in hits:
        row = hit["_source"]
        flags = [[f["rule"], str(ms(f["flagged_at"])), f["subject"]] for f in row["flags"]]
        adjustments = [
            [
                *(str(ms(a["adjusted_at"])), a["country"], a["currency"]),
                *(str(a["givt_clicks"]), str(a["sivt_clicks"])),
            ]
            for a in row["adjustments"]
        ]
        keys = (ms(row["window_start"]), row["advertiser_id"], row["version"])
        rows.append((*keys, row["ruleset_version"], flags, adjustments))
    return sorted(rows)


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def test_twice_leaves_the_same_files(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 36)
    first = files(backfill(tmp_path, logs) / "verdicts")
    assert files(backfill(tmp_path, logs) / "verdicts") == first
    assert first
