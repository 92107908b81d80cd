"""Names, URLs and secrets of tenants' databases; rows; the places of jobs."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.pull_databases import (
    DatabaseConfigError,
    Databases,
    open_engine,
    read_databases,
    safe_name,
)
from adtally.io.pull_tables import SCHEMA_VERSION, Pulled, metadata, rows_of
from adtally.pipelines.pull_tenants import GROUPS, Tenant, joined
from adtally.pipelines.pull_workers import Workers

SECRET = "correct-horse-battery"


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_advertisers_share_a_name(one: str, other: str) -> None:
    for name in (safe_name(one), safe_name(other)):
        assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", name), name
        assert ".." not in name and not name.endswith(".")
    assert one == other or safe_name(one) != safe_name(other)


@pytest.mark.parametrize(
    "pair", [("ACME", "acme"), ("a/b", "a_b"), ("é", "e\u0301"), ("a.b", "a b")]
)
def test_likely_collisions_do_not_collide(pair: tuple[str, str]) -> None:
    one, other = map(safe_name, pair)
    assert one != other
    assert safe_name(one) != safe_name(safe_name(one)) or one == safe_name(one)


def test_a_plain_id_keeps_its_name() -> None:
    assert safe_name("acme_2-x") == "acme_2-x"
    assert len(safe_name("x" * 10_000)) <= 63


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h:notaport/x",
        f"oracle://u:{SECRET}@h/x",
        f"mysql+pymysql://u:{SECRET}@h/{{advertiser}}",
        f"nonsense {SECRET}",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:${ADTALLY_NOT_SET}@h/x",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(DatabaseConfigError) as caught:
        Databases(url)
    assert SECRET not in str(caught.value)


def test_secrets_come_from_the_environment_and_are_shown_nowhere() -> None:
    url = "postgresql://u:${PW}@h/{advertiser}?sslpassword=" + SECRET
    databases = Databases(url, schema="s_{advertiser}", environment={"PW": "p@ss/w:rd"})
    target = databases.of("ACME Inc")
    assert target is not None
    assert target.url.password == "p@ss/w:rd"
    assert target.url.database == safe_name("ACME Inc") and target.schema.startswith("s_acme_inc.")
    for shown in (target.shown(), repr(target), repr(databases), str(databases)):
        assert SECRET not in shown and "p@ss" not in shown
    assert target.redacted(f"no: p@ss/w:rd {SECRET}") == "no: *** ***"
    assert "p@ss" not in repr(open_engine(target))


def test_databases_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[databases]\n"a b" = "sqlite:///x.db"\n')
    (tmp_path / "a.csv").write_text('advertiser_id,url\n"a, b",sqlite:///x.db\n\n')
    assert read_databases(str(tmp_path / "a.toml")) == {"a b": "sqlite:///x.db"}
    assert read_databases(str(tmp_path / "a.csv")) == {"a, b": "sqlite:///x.db"}
    databases = Databases(None, named={"a": "sqlite:///x.db"})
    assert databases.of("a") is not None and databases.of("b") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", f"a,sqlite:///{SECRET}\na,sqlite:///y\n"),
        ("a.csv", f"a,b,{SECRET}\n"),
        ("a.toml", f"databases = '{SECRET}'"),
        ("a.toml", f"[databases]\na = {SECRET}"),
        ("a.toml", "[databases]\na = 1"),
    ],
)
def test_a_file_that_does_not_tell_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatabaseConfigError) as caught:
        read_databases(str(tmp_path / name))
    assert SECRET not in str(caught.value)
    with pytest.raises(DatabaseConfigError, match="cannot be read"):
        read_databases(str(tmp_path / "absent.toml"))


def test_a_change_of_the_tables_is_a_new_version() -> None:
    """Where this fails, raise ``SCHEMA_VERSION``: databases would lack what is new."""
    tables = metadata().sorted_tables
    columns = [f"{t.name}.{c.name} {c.type!r}" for t in tables for c in t.columns]
    digest = hashlib.sha256("\n".join(sorted(columns)).encode()).hexdigest()[:12]
    assert (SCHEMA_VERSION, digest) == (2, "4d535b6aa8ee")


def test_unknown_fields_are_left_out_and_missing_ones_are_null() -> None:
    source = b'{"advertiser_id":"a","window_start":"2026-03-01T00:00:00.000Z","later":[{"x":1}],'
    source += b'"flags":[{"flagged_at":"2026-03-01T01:00:00Z","rule":"r","new":1}]}'
    own, flags, adjustments = rows_of("verdicts", {"id": Pulled(1, 1, 2, source)})
    row = dict(zip(own.columns, own.rows[0], strict=True))
    assert row["doc_id"] == "id" and row["generation"] is None
    assert len(flags.rows) == 1 and adjustments.rows == []
    flag = dict(zip(flags.columns, flags.rows[0], strict=True))
    assert flag["flagged_at"] == "2026-03-01T01:00:00.000Z" and flag["evidence"] is None


def test_many_cursors_are_read_in_few_groups_that_pass_over_nothing() -> None:
    target = Databases().of("x")
    assert target is not None

    def tenant() -> Tenant:
        return Tenant("x", target, lambda: pytest.fail("not opened"))

    behind = {cursor: [tenant() for _ in range(cursor % 7 + 1)] for cursor in range(-1, 500)}
    groups = joined(behind)
    assert len(groups) <= GROUPS
    where = {id(t): cursor for cursor, tenants in groups for t in tenants}
    assert len(where) == sum(map(len, behind.values()))
    assert all(where[id(t)] <= cursor for cursor, tenants in behind.items() for t in tenants)


def test_jobs_that_hang_take_nobodys_place() -> None:
    workers = Workers(2, slow_seconds=0.1)
    release, done = threading.Event(), []
    for _ in range(20):
        workers.submit("server", lambda: [release.wait(60)][:0] or None)
    for number in range(10):
        workers.submit("server", lambda number=number: done.append(number))  # type: ignore[misc]
    workers.submit("other", lambda: done.append(99))
    begun = time.monotonic()
    workers.settle()
    assert sorted(done) == [*range(10), 99]
    assert time.monotonic() - begun < 20
    assert not workers.finish(0.2)
    release.set()
    assert workers.finish(60)
