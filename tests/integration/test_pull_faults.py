"""``adtally pull`` when databases fail, hang or are locked, and when it is killed itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.pull_databases import Databases, safe_name
from adtally.io.pull_shards import Selection
from adtally.io.pull_source import Source
from adtally.pipelines.pull import Puller
from adtally.pipelines.pull_cli import pull
from adtally.pipelines.pull_roster import Plan
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.postgres_server import PostgresServer
from tests import pulls
from tests.fault_proxy import FaultProxy, Lost, Refused, Request
from tests.pulls import Written, flags, summaries

pytestmark = pytest.mark.elasticsearch
SECRET = "correct-horse-battery"


@pytest.fixture
def written(elasticsearch_node: ElasticsearchNode) -> Iterator[Written]:
    made = Written(elasticsearch_node.url)
    yield made
    made.close()


def command(written: Written, *arguments: str) -> list[str]:
    made = [sys.executable, "-m", "adtally.pipelines", "pull", *arguments]
    made += ["--elasticsearch", written.config.urls[0], "--quiet"]
    return [*made, "--elasticsearch-index-prefix", written.config.index_prefix]


def pulling(
    config: ElasticsearchConfig, template: str, schema: str, *, follow: bool
) -> BaseProcess:
    """A process that pulls everything; it has imported what it needs already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adtally.pipelines.pull"])
    process = context.Process(target=_pull, args=(config, template, schema, follow))
    process.start()
    return process


def _pull(config: ElasticsearchConfig, template: str, schema: str, follow: bool) -> None:
    puller = Puller(Source(config, Selection()), Plan(Databases(template, schema)))
    if follow:
        puller.follow(0.1)
    sys.exit(len(puller.once().failed))


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and says nothing; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_failing_databases_are_named_and_delay_nobody(written: Written, tmp_path: Path) -> None:
    """Of 30 tenants one has no server, one a silent one, one a locked file, one no folder."""
    well = [f"adv{number}" for number in range(26)]
    for advertiser in (*well, "refused", "silent", "locked", "denied"):
        written.write("summaries", summaries(advertiser, range(3)))
    (tmp_path / "file").write_text("")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(silent_server())
        locked = stack.enter_context(contextlib.closing(sqlite3.connect(tmp_path / "locked.db")))
        locked.execute("BEGIN EXCLUSIVE")
        lines = [
            "[databases]",
            f"refused = 'postgresql://u:{SECRET}@127.0.0.1:1/x'",
            f"silent = 'postgresql://u:{SECRET}@127.0.0.1:{port}/x'",
            f"denied = 'sqlite:///{tmp_path}/file/x.db'",
        ]
        (tmp_path / "d.toml").write_text("\n".join(lines))
        template = f"sqlite:///{tmp_path}/{{advertiser}}.db"
        arguments = ["--all", "--database", template, "--databases", str(tmp_path / "d.toml")]
        running = subprocess.Popen(
            command(written, *arguments), stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        while running.poll() is None and not all(
            has_tables(tmp_path / f"{x}.db")
            and not list(pulls.differences(written, f"sqlite:///{tmp_path}/{x}.db", x))
            for x in well
        ):
            time.sleep(0.05)
        assert running.poll() is None, "the others were not done before those that hang"
        _, said = running.communicate()
    assert running.returncode == 1
    assert "4 failed" in said and SECRET not in said
    for name in ("refused", "silent", "locked", "denied"):
        assert f"failed      {name}: " in said, said
    assert "***" in said
    again = written.pull(Databases(template), ["locked"])
    assert (again.written, again.failed) == (6, {})


def has_tables(path: Path) -> bool:
    """Whether a database is set up: its file is there before its tables are."""
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path)) as opened:
        found = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
    tables = {table for table, lists in pulls.PARENTS.values()}
    return found >= tables | {
        child for _, lists in pulls.PARENTS.values() for child in lists.values()
    }


def test_a_database_that_comes_back_is_pulled_by_the_same_follower(
    written: Written, tmp_path: Path
) -> None:
    for advertiser in ("a", "b"):
        written.write("summaries", summaries(advertiser, range(3)))
    source = Source(written.config, Selection())
    (tmp_path / "x").write_text("in the way")
    databases = Databases(None, named={x: f"sqlite:///{tmp_path}/{x}/x.db" for x in ("a", "b")})
    (tmp_path / "b").write_text("in the way")
    puller = Puller(source, Plan(databases))
    failures: list[str] = []

    def step() -> bool:
        totals = puller.totals()
        if totals.written == 6 and totals.failed and not failures:
            failures.extend(totals.failed)
            (tmp_path / "b").unlink()
        return totals.written == 12 or totals.rounds > 500

    puller.follow(0.05, step)
    assert failures == ["b"] and puller.totals().failed == {}
    puller.close()
    source.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_at_random_while_documents_change(
    kind: str, written: Written, tmp_path: Path, postgres: Callable[[], PostgresServer]
) -> None:
    tenants = [f"adv{number}" for number in range(12)]
    template = f"sqlite:///{tmp_path}/{{advertiser}}.db"
    schema = ""
    if kind == "postgresql":
        template, schema = (
            f"{postgres().url}postgres",
            safe_name(tmp_path.name)[:20] + "_{advertiser}",
        )
    databases = (template, schema)
    for advertiser in tenants:
        written.write("summaries", summaries(advertiser, [0]))
    chance = random.Random(7)
    stop = threading.Event()

    def change() -> None:
        seen = 1
        while not stop.is_set():
            seen += 1
            for name in chance.sample(tenants, 4):
                minute = chance.randrange(100)
                written.write("summaries", summaries(name, range(minute, minute + 9), seen=seen))
                written.write("flags", flags(name, minute, ["x", "y"][: seen % 3], seen=seen))
                if seen % 3 == 0:
                    at = pulls.START_MS + minute * 60_000
                    written.delete(advertiser_id=name, window_start=at)

    writer = threading.Thread(target=change)
    writer.start()
    for _ in range(6):
        running = pulling(written.config, *databases, follow=True)
        running.join(chance.uniform(0.3, 2.5))
        assert running.is_alive()
        running.kill()
        running.join()
    stop.set()
    writer.join()
    both = [pulling(written.config, *databases, follow=False) for _ in range(2)]  # two machines
    for running in both:
        running.join()
    assert [running.exitcode for running in both] == [0, 0]
    for advertiser in tenants:
        url = template.replace("{advertiser}", advertiser)
        where = schema.replace("{advertiser}", advertiser)
        assert not list(pulls.differences(written, url, advertiser, where))


def test_a_hanging_server_is_given_up(
    written: Written, tmp_path: Path, postgres: Callable[[], PostgresServer]
) -> None:
    """A transaction of somebody else holds a table; its tenant's others go on."""
    server = postgres()
    schema = safe_name(tmp_path.name)[:20] + "_{advertiser}"
    databases = Databases(f"{server.url}postgres", schema=schema)
    for advertiser in ("held", "free"):
        written.write("summaries", summaries(advertiser, range(3)))
    written.pull(databases)
    written.write("summaries", summaries("held", range(3), seen=2))
    written.write("summaries", summaries("free", range(3), seen=2))
    held = schema.replace("{advertiser}", "held")
    with psycopg.connect(server.url.replace("+psycopg", "") + "postgres") as other:
        other.execute(f'LOCK TABLE "{held}".summaries IN ACCESS EXCLUSIVE MODE')
        source = Source(written.config, Selection())
        puller = Puller(source, Plan(databases, patience_seconds=1))
        assert list(puller.once().failed) == ["held"]
        url = f"{server.url}postgres"
        free = schema.replace("{advertiser}", "free")
        assert not list(pulls.differences(written, url, "free", free))
    assert puller._workers.finish(60)
    puller.close()
    source.close()
    assert written.pull(databases).failed == {}
    assert not list(pulls.differences(written, f"{server.url}postgres", "held", held))


def test_lost_answers_and_busy_nodes_of_elasticsearch(written: Written, tmp_path: Path) -> None:
    written.write("summaries", summaries("acme", range(200)))
    asked: list[str] = []

    def fault(request: Request) -> Lost | Refused | None:
        path = request.path.split("?")[0]
        asked.append(path)
        return (Lost(), Refused(503, b"{}"))[len(asked) % 2] if asked.count(path) == 1 else None

    databases = Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db")
    with FaultProxy(written.config.urls[0], fault) as proxy:
        straight = written.config.urls
        object.__setattr__(written.config, "urls", (proxy.url,))
        totals = written.pull(databases)
        object.__setattr__(written.config, "urls", straight)
        assert len(proxy.faults) >= 4
    assert (totals.written, totals.failed) == (400, {})
    assert not list(pulls.differences(written, f"sqlite:///{tmp_path}/acme.db", "acme"))


def test_a_snapshot_that_is_lost_is_taken_again(written: Written, tmp_path: Path) -> None:
    written.write("summaries", summaries("acme", range(20)))
    source = Source(written.config, Selection())
    puller = Puller(source, Plan(Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db"), ("acme",)))
    read, lost = puller._read, []

    def losing(snapshot: object, *others: object) -> None:
        if not lost:
            lost.append(snapshot)
            snapshot.close()  # type: ignore[attr-defined]
        read(snapshot, *others)  # type: ignore[arg-type]

    puller._read = losing  # type: ignore[method-assign]
    totals = puller.once()
    puller.close()
    source.close()
    assert lost and (totals.written, totals.failed) == (40, {})


def test_wrong_usage_is_explained() -> None:
    where = ["--elasticsearch", "http://127.0.0.1:1"]
    said = CliRunner().invoke(pull, where)
    assert said.exit_code == 2 and "--advertiser" in said.output
    said = CliRunner().invoke(pull, [*where, "--all", "--database", "postgresql://u:${PW}@h/x"])
    assert said.exit_code == 2 and "{advertiser}" in said.output
    told = f"postgresql://u:{SECRET}@h/{{advertiser}}"
    said = CliRunner().invoke(pull, [*where, "--all", "--database", told])
    assert said.exit_code == 2 and "a user or password" in said.output
    assert SECRET not in said.output
    said = CliRunner().invoke(pull, ["--all"])
    assert said.exit_code == 2 and "--elasticsearch URL is needed" in said.output
