"""Feeding streams and comparing what came out, for tests on every runner."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
from aws_kinesis_agg.aggregator import RecordAggregator

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.runners.flink import FlinkConfig
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import aws_client, make_stream
from tests import sql_oracle

LATENESS_SECONDS = 10_000
"""Of :func:`recent_logs` the oldest event is 8,500 s old when it is made, and some are received
more than this after they happened."""

EASY_ANOMALIES = "rules.sivt_volume_anomaly = { threshold = 1.2, minimum = 5 }"
"""Two thousand advertisers have little each: anomalies need low limits to be found."""

AWS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


def recent_logs(
    folder: Path, events: int, seed: int = 1, minutes_ago: int = 80, advertisers: int = 2_000
) -> Path:
    """Logs of the whole hour that holds a moment: duplicates, late, malformed, out of order.

    Some conversions follow the hour by up to 18 minutes: unless that is past as well, there are
    windows that have not ended, and are in no file.
    """
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=minutes_ago)
    start = before.replace(minute=0, second=0, microsecond=0)
    config = GenerateConfig(
        seed=seed,
        output=str(folder),
        events=events,
        advertisers=advertisers,
        hours=1,
        start_ms=round(start.timestamp() * 1000),
        duplicate_ratio=0.05,
        malformed_ratio=0.02,
        late_ratio=0.02,
    )
    generate(config)
    return folder / "logs"


def lines_of(logs: Path) -> list[bytes]:
    """All lines that are not blank, as a producer would send them."""
    found = []
    for path in sorted(logs.rglob("*.jsonl*")):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        found += [line for line in data.split(b"\n") if line.strip()]
    return found


def create_stream(url: str, name: str, shards: int) -> Any:
    """A new stream, ready to use; returns a client.

    Tests share a server: a name that another has taken would bring its events.
    """
    client: Any = aws_client("kinesis", url)
    taken = [page["StreamNames"] for page in client.get_paginator("list_streams").paginate()]
    assert name not in itertools.chain(*taken), f"another test has a stream {name}"
    make_stream(url, name, shards)
    return client


def flink_options(cluster: FlinkCluster) -> tuple[str, ...]:
    """Beam options for a job on this cluster."""
    config = FlinkConfig(
        cluster.job_server.endpoint,
        f"127.0.0.1:{cluster.job_server.artifact_port}",
        cluster.pool.endpoint,
        workers=2,
    )
    return tuple(config.arguments())


def put(client: Any, name: str, lines: Sequence[bytes], seed: int = 1) -> None:
    """Send lines out of order: most alone, some several to a record, some as KPL aggregates."""
    rng = random.Random(seed)
    left = list(lines)
    rng.shuffle(left)
    records: list[dict[str, Any]] = []
    while left:
        key = str(rng.randrange(1 << 30))
        kind = rng.random()
        if kind < 0.9:
            records.append({"Data": left.pop(), "PartitionKey": key})
        elif kind < 0.95:
            some = [left.pop() for _ in range(min(len(left), 5))]
            records.append({"Data": b"\n".join(some), "PartitionKey": key})
        else:
            packer = RecordAggregator()
            for _ in range(min(len(left), 20)):
                packer.add_user_record(key, left.pop())
            _, _, data = packer.clear_and_get().get_contents()
            records.append({"Data": data, "PartitionKey": key})
    for start in range(0, len(records), 250):
        answer = client.put_records(StreamName=name, Records=records[start : start + 250])
        assert answer["FailedRecordCount"] == 0


@contextlib.contextmanager
def running(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``adtally`` in a process of its own, ended by its id; what fails beside it tells its log."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "adtally.pipelines", *arguments],
            stdout=sink,
            stderr=sink,
            env={**os.environ, **AWS},
            start_new_session=True,
        )
    try:
        yield process
    except AssertionError as error:
        state = process.poll()
        status = "still runs" if state is None else f"ended with status {state}"
        error.add_note(f"the process {status}; the end of its log:\n{log.read_text()[-5000:]}")
        raise
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


WAIT_SECONDS = 400
"""What a busy machine may need for what takes seconds: a test is not a timing."""


def until(true: Callable[[], bool], what: str) -> float:
    """Wait for a condition; returns the seconds that it took."""
    began = time.monotonic()
    while not true():
        waited = time.monotonic() - began
        assert waited < WAIT_SECONDS, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def until_checkpoint(cluster: FlinkCluster) -> None:
    """Wait until a checkpoint of the only job is whole that was begun after this call.

    Then all of its tasks run, also after a kill.
    """

    def whole() -> int:
        (job,) = cluster.jobs() + cluster.jobs("RESTARTING")
        return int(cluster.manager.get(f"/jobs/{job}/checkpoints")["counts"]["completed"])

    before = whole()
    until(lambda: whole() >= before + 2, "a checkpoint from now on is whole")


def until_equal(actual: Callable[[], list[Any]], expected: list[Any], what: str) -> float:
    """Wait for rows; when they do not come, tells which are missing and which are too many."""
    found: list[Any] = []

    def equal() -> bool:
        found[:] = actual()
        return found == expected

    try:
        return until(equal, what)
    except AssertionError as error:
        missing = [row for row in expected if row not in found]
        extra = [row for row in found if row not in expected]
        error.add_note(f"of {len(expected)} rows {len(missing)} are missing: {missing[:3]}")
        error.add_note(f"{len(extra)} are too many: {extra[:3]}")
        raise


def oracle(logs: Path) -> duckdb.DuckDBPyConnection:
    """SQL over the raw lines."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    now_ms = round(time.time() * 1000)
    sql_oracle.load(connection, logs, now_ms)
    return connection


def views(output: Path) -> duckdb.DuckDBPyConnection:
    """The views over an output as it is now."""
    from adtally.io.views import views_sql

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(views_sql(str(output), 60, LATENESS_SECONDS, ()))
    return connection


def stored(output: Path) -> list[Any]:
    """Base summaries through the views, as the oracle gives them."""
    keys = "epoch_ms(window_start), advertiser_id, currency"
    query = f"SELECT {keys}, {sql_oracle.MEASURES} FROM summaries WHERE window_seconds = 60"
    return views(output).execute(f"{query} ORDER BY ALL").fetchall()


def stored_flags(output: Path) -> list[Any]:
    return views(output).execute(f"SELECT {sql_oracle.FLAGS} FROM flags ORDER BY ALL").fetchall()


def expected_look_back(sql: duckdb.DuckDBPyConnection, logs: Path) -> list[Any]:
    """Flags of rules that look back, of the hour that logs were made for, by the oracle.

    The hour after it, which some conversions are in, may not have ended yet.
    """
    hour = _hour(logs)
    return [row for row in sql_oracle.look_back(sql, 60) if row[0] == hour]


def stored_look_back(output: Path, logs: Path) -> list[Any]:
    """The same through the views."""
    query = f"SELECT {sql_oracle.LOOK_BACK_FLAGS} FROM look_back_flags ORDER BY ALL"
    rows = views(output).execute(query).fetchall()
    return [row for row in rows if row[0] == _hour(logs)]


def stored_anomalies(output: Path, logs: Path) -> list[Any]:
    """Anomalies of the hour that logs were made for."""
    query = f"SELECT {sql_oracle.ANOMALIES} FROM anomalies ORDER BY ALL"
    return [row for row in views(output).execute(query).fetchall() if row[0] == _hour(logs)]


def _hour(logs: Path) -> int:
    """Start of the hour of the first file (ms)."""
    first = min(path.relative_to(logs).as_posix()[:13] for path in logs.rglob("*.jsonl*"))
    hour = datetime.datetime.strptime(first, "%Y-%m-%d/%H").replace(tzinfo=datetime.UTC)
    return round(hour.timestamp() * 1000)


def in_log(output: Path) -> list[Any]:
    """Events in the log, each record once; without what tells the ways in apart."""
    query = """SELECT advertiser_id, event_type, event_id, epoch_ms(occurred_at),
        epoch_ms(received_at), ip, user_id, cost_micros, currency, content_hash, late
        FROM event_rows WHERE event_id IS NOT NULL ORDER BY ALL"""
    return views(output).execute(query).fetchall()


def searchable(url: str, prefix: str) -> list[Any]:
    """Base summaries in Elasticsearch, as the oracle gives them."""
    return document_rows(documents(url, prefix))


def document_rows(found: Iterable[dict[str, Any]]) -> list[Any]:
    """Documents of base summaries, as the oracle gives rows."""
    names = [name.strip() for name in sql_oracle.MEASURES.split(",")[:13]]
    rows = []
    for row in found:
        times = [_ms(row[name]) for name in ("first_event_at", "last_event_at")]
        keys = (_ms(row["window_start"]), row["advertiser_id"], row["currency"])
        rows.append((*keys, *(row[name] for name in names), *times))
    return sorted(rows)


def searchable_anomalies(url: str, prefix: str, logs: Path) -> list[Any]:
    """Anomalies in Elasticsearch, as :func:`stored_anomalies`."""
    pattern = f"{prefix}-anomalies-*"
    with contextlib.closing(connect(ElasticsearchConfig((url,), prefix))) as client:
        client.cluster.health(index=pattern, wait_for_status="yellow", timeout="30s")
        client.indices.refresh(index=pattern)
        hits = client.search(index=pattern, size=10_000)["hits"]["hits"]
    names = ("rule", "subject", "count", "threshold")
    rows = [
        (_ms(row["window_start"]), _ms(flag["flagged_at"]), row["advertiser_id"],
         *(flag[name] for name in names))
        for row in (hit["_source"] for hit in hits)
        for flag in row["flags"]
    ]  # fmt: skip
    return sorted(row for row in rows if row[0] == _hour(logs))


def documents(url: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Base summaries in Elasticsearch."""
    with contextlib.closing(connect(ElasticsearchConfig((url,), prefix))) as client:
        # An index that a running stream made this moment cannot be searched yet (503).
        ready = client.cluster.health(
            index=f"{prefix}-summaries-*", level="indices", wait_for_status="yellow", timeout="30s"
        )
        names_now = list(ready["indices"])
        if not names_now:
            return
        client.indices.refresh(index=names_now)
        after = None
        while True:
            found = client.search(
                index=names_now,
                size=5_000,
                query={"term": {"window_seconds": 60}},
                sort=[{"window_start": "asc"}, {"advertiser_id": "asc"}, {"currency": "asc"}],
                search_after=after,
            )["hits"]["hits"]
            if not found:
                return
            for hit in found:
                yield hit["_source"]
            after = found[-1]["sort"]


def _ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)
