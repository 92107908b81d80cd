"""``python -m benchmarks.pull``: rows a second for 2,000 tenants, and pulls that are killed.

Documents are written as the sink writes them, to a node of its own. SQLite and PostgreSQL get a
first pull, one without changes, and one after a tenth of the documents changed. Other databases
get pulls that are killed (SIGKILL) at random moments while a writer changes, adds and deletes
documents. In the end every table is compared with Elasticsearch, row by row and value by value.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import sqlalchemy as sa
from elasticsearch.helpers import scan

from adtally.io import schema
from adtally.io.pull_databases import safe_name
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.postgres_server import PostgresServer
from tests.pulls import START_MS, Written, flags, plain, verdicts

CAMPAIGNS = 10
LONGEST_SECONDS = 25.0
"""That a pull is left alone before it is killed."""


def rows(tenants: list[str], minutes: range, seen: int) -> pa.Table:
    """Each tenant's campaigns, minute by minute."""
    made = pl.DataFrame({"advertiser_id": tenants}).join(
        pl.DataFrame({"minute": list(minutes)}), how="cross"
    )
    made = made.join(
        pl.DataFrame({"campaign_id": [f"c{n}" for n in range(CAMPAIGNS)]}), how="cross"
    )
    start = pl.col("minute") * 60_000 + START_MS
    at = {"window_start": 0, "window_end": 60_000, "first_event_at": 1, "last_event_at": 2}
    at |= {"final_after": 3_660_000}
    dimensions = {n: pl.lit(None, pl.String) for n in schema.DIMENSIONS if n != "campaign_id"}
    frame = made.with_columns(
        **{name: start + shift for name, shift in at.items()},
        **dimensions,
        **{name: pl.lit(seen * 1000 + k) for k, name in enumerate(schema.MEASURES)},
        window_seconds=pl.lit(60),
        currency=pl.lit("EUR"),
        unique_users=pl.lit(3),
        unique_user_hashes=pl.lit([1 << 60, 2 << 60, 3 << 60]),
        generation=pl.lit(0),
        version=pl.lit(seen),
    )
    wanted = schema.summary_schema(schema.DIMENSIONS)
    table = frame.select(wanted.names).to_arrow()
    return pa.table(
        [
            table[f.name].cast(pa.int64()).cast(f.type)
            if pa.types.is_timestamp(f.type)
            else table[f.name].cast(f.type)
            for f in wanted
        ],
        schema=wanted,
    )


def load(written: Written, tenants: list[str], minutes: range, seen: int = 1) -> int:
    count = 0
    for start in range(0, len(tenants), 200):
        table = rows(tenants[start : start + 200], minutes, seen)
        written.write("summaries", table)
        count += table.num_rows
    return count


def pull(written: Written, database: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "adtally.pipelines", "pull", "--all", *database, *more]
    command += ["--elasticsearch", written.config.urls[0]]
    command += ["--elasticsearch-index-prefix", written.config.index_prefix]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def timed(written: Written, database: list[str]) -> tuple[float, str]:
    begun = time.monotonic()
    done = pull(written, database, "--quiet")
    _, said = done.communicate()
    if done.returncode:
        raise SystemExit(f"a pull ended with {done.returncode}: {said}")
    return time.monotonic() - begun, said


class Writer(threading.Thread):
    """Changes, adds and deletes documents until it is stopped."""

    def __init__(self, written: Written, tenants: list[str], minutes: int, seed: int) -> None:
        super().__init__()
        self._written, self._tenants, self._minutes = written, tenants, minutes
        self._random = random.Random(seed)
        self.stopped = threading.Event()
        self.documents = self.deleted = 0

    def run(self) -> None:
        seen = int(time.time())
        while not self.stopped.is_set():
            seen += 1
            some = self._random.sample(self._tenants, min(50, len(self._tenants)))
            minute = self._random.randrange(self._minutes + 5)
            self.documents += load(self._written, some, range(minute, minute + 1), seen)
            for tenant in some[:5]:
                self._written.write("flags", flags(tenant, minute, ["a", "b"][: seen % 3], seen))
                self._written.write("verdicts", verdicts(tenant, 0, minute % 60, seen, seen))
            at = START_MS + self._random.randrange(self._minutes) * 60_000
            self.deleted += self._written.delete(advertiser_id=some[0], window_start=at)


def kills(written: Written, database: list[str], count: int, seed: int) -> None:
    """Pulls, killed at random moments: when they start, connect, read or write."""
    chance = random.Random(seed)
    for number in range(count):
        running = pull(
            written, database, "--quiet", *(["--follow", "--every", "1s"] * (number % 2))
        )
        try:
            running.wait(chance.uniform(1, LONGEST_SECONDS))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
        running.communicate()


def compare(written: Written, urls: dict[str, tuple[str, str]]) -> tuple[int, list[str]]:
    """Rows that were compared, and where they differ."""
    there: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in urls}
    kinds = {"summaries": "summaries", "flags": "flag_windows", "verdicts": "verdict_hours"}
    index = f"{written.config.index_prefix}-*"
    written.client.indices.refresh(index=index)
    for hit in scan(written.client, index=index, size=5_000):
        there[hit["_source"]["advertiser_id"]][hit["_id"]] = hit["_source"]
    wrong: list[str] = []
    count = 0
    for tenant, (url, where) in urls.items():
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        here: dict[str, dict[str, Any]] = {}
        with engine.connect() as connection:
            if where:
                connection.exec_driver_sql(f'SET search_path TO "{where}"')
            for table in kinds.values():
                found = connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()
                here.update((row["doc_id"], dict(row)) for row in found)
            listed = connection.exec_driver_sql("SELECT doc_id, subject FROM flags").fetchall()
        engine.dispose()
        count += len(here)
        if here.keys() != there[tenant].keys():
            wrong.append(f"{tenant}: {len(there[tenant])} documents, {len(here)} rows")
            continue
        subjects = sorted((doc_id, subject) for doc_id, subject in listed)
        expected = []
        for doc_id, document in there[tenant].items():
            for name, value in document.items():
                if isinstance(value, list):
                    if name == "flags" and "adjustments" not in document:
                        expected += [(doc_id, item["subject"]) for item in value]
                elif plain(value) != plain(here[doc_id][name]):
                    wrong.append(f"{tenant} {doc_id} {name}: {value!r}, {here[doc_id][name]!r}")
        if subjects != sorted(expected):
            wrong.append(f"{tenant}: flags")
    return count, wrong


def databases(
    kind: str, folder: str, server: PostgresServer | None
) -> Iterator[tuple[str, list[str]]]:
    for name in ("timed", "killed"):
        if server is None:
            yield name, ["--database", f"sqlite:///{folder}/{name}/{{advertiser}}.db"]
        else:
            url = f"{server.url}postgres"
            yield name, ["--database", url, "--schema", f"{name}_{{advertiser}}"]


def places(database: list[str], tenants: list[str]) -> dict[str, tuple[str, str]]:
    template = database[1]
    schema_ = database[3] if len(database) > 2 else ""
    return {
        tenant: tuple(x.replace("{advertiser}", safe_name(tenant)) for x in (template, schema_))  # type: ignore[misc]
        for tenant in tenants
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tenants", type=int, default=2_000)
    arguments.add_argument("--rows", type=int, default=200, help="of a tenant")
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--databases", default="sqlite,postgresql")
    given = arguments.parse_args()
    tenants = [f"adv-{number:04}" for number in range(given.tenants)]
    minutes = given.rows // CAMPAIGNS
    with ElasticsearchNode(heap_mb=1024) as node, tempfile.TemporaryDirectory() as folder:
        written = Written(node.url)
        begun = time.monotonic()
        for minute in range(0, minutes, 10):
            load(written, tenants, range(minute, min(minutes, minute + 10)))
        told(step="loaded", documents=len(tenants) * given.rows, seconds=time.monotonic() - begun)
        written.client.indices.refresh(index=f"{written.config.index_prefix}-*")
        begun = time.monotonic()
        count = sum(
            1 for _ in scan(written.client, index=f"{written.config.index_prefix}-*", size=5_000)
        )
        seconds = time.monotonic() - begun
        told(
            step="elasticsearch.helpers.scan",
            documents=count,
            seconds=seconds,
            rate=count / seconds,
        )
        for kind in given.databases.split(","):
            server = PostgresServer() if kind == "postgresql" else None
            if server is not None:
                server.start()
            try:
                for name, database in databases(kind, folder, server):
                    measure(written, kind, name, database, tenants, minutes, given)
            finally:
                if server is not None:
                    server.stop()


def measure(
    written: Written,
    kind: str,
    name: str,
    database: list[str],
    tenants: list[str],
    minutes: int,
    given: argparse.Namespace,
) -> None:
    if name == "killed":
        writer = Writer(written, tenants, minutes, given.seed)
        writer.start()
        begun = time.monotonic()
        kills(written, database, given.kills, given.seed)
        writer.stopped.set()
        writer.join()
        told(
            step=f"{kind}: {given.kills} pulls, killed",
            written=writer.documents,
            deleted=writer.deleted,
            seconds=time.monotonic() - begun,
        )
        seconds, _ = timed(written, database)
        told(step=f"{kind}: to the end", seconds=seconds)
    else:
        for step in ("first pull", "nothing new", "a tenth changed"):
            count = given.rows * len(tenants) if step == "first pull" else 0
            if step == "a tenth changed":
                count = load(written, tenants, range(minutes // 10), int(time.time()))
            seconds, said = timed(written, database)
            told(step=f"{kind}: {step}", documents=count, seconds=seconds, rate=count / seconds)
            print(said.strip())
    count, wrong = compare(written, places(database, tenants))
    told(step=f"{kind}: compared", rows=count, wrong=len(wrong), first=wrong[:3])


def told(**values: Any) -> None:
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
