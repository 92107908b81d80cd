"""``adtally pull`` between a real Elasticsearch and real databases."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from adtally.io.pull_databases import Databases, safe_name
from adtally.io.pull_shards import Selection
from adtally.io.pull_source import Source
from adtally.io.pull_store import PullConflict
from adtally.pipelines import pull as puller_module
from adtally.pipelines.pull import Puller
from adtally.pipelines.pull_roster import Plan
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.postgres_server import PostgresServer
from tests import pulls
from tests.pulls import Written, anomalies, flags, summaries, verdicts

pytestmark = pytest.mark.elasticsearch


@pytest.fixture
def written(elasticsearch_node: ElasticsearchNode) -> Iterator[Written]:
    made = Written(elasticsearch_node.url)
    yield made
    made.close()


@dataclass(frozen=True)
class Place:
    """Databases of tenants, and how a test looks into them."""

    databases: Databases

    def url(self, advertiser: str) -> str:
        return str(self.databases.template).replace("{advertiser}", safe_name(advertiser))

    def execute(self, advertiser: str, statement: str, **values: Any) -> list[Any]:
        engine = sa.create_engine(self.url(advertiser), poolclass=sa.NullPool)
        with engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def same(self, written: Written, *advertisers: str) -> None:
        for advertiser in advertisers:
            found = list(pulls.differences(written, self.url(advertiser), advertiser))
            assert not found, found[:5]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: Callable[[], PostgresServer]
) -> Place:
    if request.param == "sqlite":
        return Place(Databases(f"sqlite:///{tmp_path}/new/{{advertiser}}.db"))
    prefix = safe_name(tmp_path.parent.name + tmp_path.name)[:25]
    return Place(Databases(f"{postgres().url}{prefix}_{{advertiser}}", create=True))


def test_all_kinds_of_new_changed_and_deleted_documents(written: Written, place: Place) -> None:
    for advertiser in ("acme", "Bob & Söhne"):
        written.write("summaries", summaries(advertiser, range(90)))
        written.write("flags", flags(advertiser, 3, ["1.2.3.4", "5.6.7.8"]))
        written.write("flags", flags(advertiser, 4, ["1.2.3.4"]))
        written.write("verdicts", verdicts(advertiser, 0, 5, 2))
        written.write("anomalies", anomalies(advertiser, 0, 7))
    first = written.pull(place.databases)
    assert (first.written, first.removed, first.failed) == (2 * (180 + 4), 0, {})
    place.same(written, "acme", "Bob & Söhne")

    again = written.pull(place.databases)
    assert (again.read, again.written, again.removed) == (0, 0, 0)

    written.write("summaries", summaries("acme", [5, 50_000], seen=9))  # another month too
    written.write("flags", flags("acme", 3, ["9.9.9.9"], seen=2))
    written.write("flags", flags("acme", 4, [], seen=2))
    assert written.delete(advertiser_id="acme", window_start=pulls.START_MS + 8 * 60_000) == 2
    second = written.pull(place.databases)
    assert (second.written, second.removed) == (4 + 2, 2)
    place.same(written, "acme", "Bob & Söhne")
    assert place.execute("acme", "SELECT subject FROM flags") == [("9.9.9.9",)]


def test_net_summaries_take_off_what_rules_that_look_back_found(
    written: Written, place: Place
) -> None:
    written.write("summaries", summaries("acme", [5, 6], seen=7))
    written.write("verdicts", verdicts("acme", 0, 5, 3))
    written.pull(place.databases)
    found = place.execute(
        "acme",
        "SELECT s.net_clicks - n.net_clicks, n.sivt_clicks FROM net_summaries n "
        "JOIN summaries s ON s.doc_id = n.doc_id ORDER BY s.window_start, s.campaign_id IS NULL",
    )
    assert found == [(3, 3), (0, 0), (0, 0), (0, 0)]


def test_folded_rows_in_net_summaries(written: Written, place: Place) -> None:
    """What is found in a row that was folded is taken off the row of all others, once."""
    written.write("summaries", summaries("acme", [5], seen=7, campaigns=("a", "x", "y")))
    # A later pane; the documents of x and y are not deleted yet.
    written.write("summaries", summaries("acme", [5], seen=9, campaigns=("a", "__other__")))
    written.write("summaries", summaries("acme", [6], seen=9, campaigns=("a", "x")))
    written.write("verdicts", verdicts("acme", 0, 5, 3, campaigns=("a", "x", "y", "z")))
    written.pull(place.databases)
    found = place.execute(
        "acme",
        "SELECT n.campaign_id, s.net_clicks - n.net_clicks, n.sivt_clicks FROM net_summaries n "
        "JOIN summaries s ON s.doc_id = n.doc_id ORDER BY s.window_start, n.campaign_id DESC",
    )
    assert found == [("a", 3, 3), ("__other__", 9, 9), ("x", 0, 0), ("a", 0, 0)]


def test_numbers_that_a_primary_gives_again_after_another_failed(
    written: Written, place: Place
) -> None:
    """A pull may have seen an operation that nobody acknowledged, which went with its primary."""
    written.write("summaries", summaries("acme", range(3)))
    written.pull(place.databases)
    place.execute("acme", "UPDATE summaries SET seq_no = seq_no + 1000")
    written.write("summaries", summaries("acme", range(3), seen=2))
    written.pull(place.databases)
    assert place.execute("acme", "SELECT DISTINCT version FROM summaries") == [(1,)]
    place.execute("acme", "UPDATE summaries SET primary_term = primary_term - 1")
    written.write("summaries", summaries("acme", range(3), seen=3))
    written.pull(place.databases)
    place.same(written, "acme")


def test_a_document_that_came_back_with_a_lower_version_is_followed(
    written: Written, place: Place
) -> None:
    written.write("summaries", summaries("acme", [1], seen=9, generation=1))
    written.pull(place.databases)
    written.client.indices.put_settings(
        index=f"{written.config.index_prefix}-*", settings={"index.gc_deletes": "0s"}
    )
    assert written.delete(advertiser_id="acme") == 2
    while not written.documents("summaries", "acme"):  # refused until the delete is forgotten
        written.write("summaries", summaries("acme", [1], seen=4))
    written.pull(place.databases)
    place.same(written, "acme")
    assert place.execute("acme", "SELECT DISTINCT version FROM summaries") == [(4,)]


def test_an_index_that_was_made_anew_is_read_anew(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", range(20), seen=5))
    written.pull(place.databases)
    written.client.indices.delete(index=f"{written.config.index_prefix}-summaries-2026.03")
    gone = written.pull(place.databases, ["acme"])
    assert (gone.kept, gone.removed) == (40, 0)
    written.write("summaries", summaries("acme", range(5), seen=2))
    renewed = written.pull(place.databases)
    assert (renewed.written, renewed.removed) == (10, 30)
    place.same(written, "acme")
    written.client.indices.delete(index=f"{written.config.index_prefix}-summaries-2026.03")
    written.write("summaries", summaries("acme", [50_000]))
    assert written.pull(place.databases, drop=True).removed == 10
    place.same(written, "acme")


def test_a_tenant_without_documents_loses_its_rows(written: Written, tmp_path: Path) -> None:
    place = Place(Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db"))
    for advertiser in ("acme", "Other"):
        written.write("summaries", summaries(advertiser, range(3)))
    written.pull(place.databases)
    written.delete(advertiser_id="Other")
    (tmp_path / "notes.db").write_text("no database")
    assert written.pull(place.databases).removed == 6
    place.same(written, "acme", "Other")


def test_rows_that_somebody_deleted_are_brought_back(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", range(20)))
    written.pull(place.databases)
    place.execute("acme", "DELETE FROM summaries WHERE campaign_id = 'a'")
    assert written.pull(place.databases).failed == {}
    place.same(written, "acme")


def test_another_selection_is_read_anew(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", range(20)))
    written.write("flags", flags("acme", 3, ["x"]))
    some = Selection(kinds=("summaries",), from_ms=pulls.START_MS + 10 * 60_000)
    written.pull(place.databases, selection=some)
    assert place.execute("acme", "SELECT count(*), min(position) FROM flags") == [(0, None)]
    assert place.execute("acme", "SELECT count(*) FROM summaries") == [(20,)]
    written.pull(place.databases)
    place.same(written, "acme")
    written.pull(place.databases, selection=some)
    assert place.execute("acme", "SELECT count(*) FROM summaries") == [(20,)]
    assert place.execute("acme", "SELECT count(*) FROM flag_windows") == [(1,)]


def test_hostile_text_arrives_as_it_is(written: Written, place: Place) -> None:
    hostile = "'; DROP TABLE summaries; -- {} ${HOME} %s ? \N{PILE OF POO} \u202e" + "x" * 9_000
    names = ("../../etc/x", "ACME", "acme", "a" * 500, "_", "ümlaut", "con.db", "%2e%2e")
    for advertiser in names:
        written.write("summaries", summaries(advertiser, [1], campaigns=(hostile, "")))
    written.pull(place.databases)
    place.same(written, *names)
    if place.databases.template and place.databases.template.startswith("sqlite"):
        folder = Path(str(sa.make_url(place.url("acme")).database)).parent
        assert len(list(folder.iterdir())) == len(names)
        assert sorted(folder.parent.iterdir()) == [folder]


def test_a_zero_character_is_replaced(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", [1], campaigns=("a\0b",)))
    written.write("flags", flags("acme", 1, ["x\0"]))
    assert written.pull(place.databases).failed == {}
    assert place.execute("acme", "SELECT campaign_id FROM summaries") == [("a\ufffdb",)]
    assert place.execute("acme", "SELECT subject FROM flags") == [("x\ufffd",)]


def test_tables_of_an_earlier_version_get_what_they_lack(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", range(5)))
    written.write("flags", flags("acme", 3, ["x"]))
    written.pull(place.databases)
    for statement in (
        "DROP VIEW net_summaries",
        "ALTER TABLE summaries DROP COLUMN revenue_micros",
        "DROP TABLE anomalies",
        "UPDATE pull_meta SET schema_version = 0",
        # What an earlier version read has another history, so it is read again.
        "UPDATE pull_origins SET origin = origin - 1",
        "UPDATE summaries SET origin = origin - 1",
        "UPDATE flag_windows SET origin = origin - 1",
    ):
        place.execute("acme", statement)
    written.write("anomalies", anomalies("acme", 0, 7))
    assert written.pull(place.databases).failed == {}
    place.same(written, "acme")
    assert place.execute("acme", "SELECT count(*) FROM net_summaries") == [(10,)]


def test_tables_of_a_later_version_are_left_alone(written: Written, place: Place) -> None:
    for advertiser in ("acme", "other"):
        written.write("summaries", summaries(advertiser, range(5)))
    written.pull(place.databases, ["acme"])
    place.execute("acme", "UPDATE pull_meta SET schema_version = 99")
    written.write("summaries", summaries("acme", [7]))
    failed = written.pull(place.databases).failed
    assert list(failed) == ["acme"] and "newer adtally" in failed["acme"]
    assert place.execute("acme", "SELECT count(*) FROM summaries") == [(10,)]
    place.same(written, "other")


def test_of_two_pullers_one_gives_way_and_nothing_older_comes_back(
    written: Written, place: Place
) -> None:
    """One has read a document that the other has deleted since."""
    written.write("summaries", summaries("acme", range(4)))
    written.pull(place.databases)
    written.write("summaries", summaries("acme", range(4), seen=2))
    source = Source(written.config, Selection())
    late = Puller(source, Plan(place.databases, ("acme",)))
    read, conflicts = late._complete, []

    def overtaken(*args: Any) -> None:
        late._complete = read  # type: ignore[method-assign]
        assert written.delete(advertiser_id="acme", window_start=pulls.START_MS) == 2
        assert written.pull(place.databases).removed == 2
        read(*args)
        late._workers.settle()
        conflicts.append(late.roster.tenants["acme"].conflicts)

    late._complete = overtaken  # type: ignore[method-assign]
    assert late.once().failed == {}
    assert conflicts == [1]
    late.close()
    source.close()
    place.same(written, "acme")


def test_many_shards_of_an_index(
    written: Written, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller_module, "WINDOW_NUMBERS", 7)
    prefix = written.config.index_prefix
    name = f"{prefix}-summaries-2026.03"
    written.client.indices.create(index=name, settings={"number_of_shards": 5})
    names = [f"adv{number}" for number in range(12)]
    for advertiser in names:
        written.write("summaries", summaries(advertiser, range(10)))
    written.pull(place.databases)
    for advertiser in names[:6]:
        written.write("summaries", summaries(advertiser, range(3, 6), seen=3))
    written.delete(advertiser_id=names[7])
    assert written.pull(place.databases, buffer_bytes=1).written == 6 * 6
    place.same(written, *(x for x in names if x != names[7]))
    written.pull(place.databases, names)
    place.same(written, *names)


def test_what_was_read_before_a_pull_ended_is_not_read_again(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is read in windows of operations; the cursor moves with each that was written."""
    monkeypatch.setattr(puller_module, "WINDOW_NUMBERS", 20)
    names = ["a", "b", "c"]
    for minute in range(30):
        for advertiser in names:
            written.write("summaries", summaries(advertiser, [minute]))
    written.write("summaries", summaries("b", range(5, 20), seen=2))
    place = Place(Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db"))
    source = Source(written.config, Selection(kinds=("summaries",)))
    ended = Puller(source, Plan(place.databases, tuple(names), buffer_bytes=1))
    flush, flushed = ended._flush, []

    def end() -> None:
        flush()
        flushed.append(1)
        if len(flushed) == 3:
            raise KeyboardInterrupt

    ended._flush = end  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ended.once()
    ended.close()
    source.close()
    before = ended.totals().written
    assert 60 < before < 180
    rest = written.pull(place.databases, names)
    assert rest.read == rest.written < 180 - 30  # but for the window that was not read to its end
    place.same(written, *names)


def test_following_finds_new_documents_and_new_tenants(written: Written, place: Place) -> None:
    written.write("summaries", summaries("acme", range(3)))
    source = Source(written.config, Selection())
    puller = Puller(source, Plan(place.databases))
    stopped = threading.Event()
    steps: list[Callable[[], object]] = [
        lambda: written.write("summaries", summaries("acme", range(6), seen=2)),
        lambda: written.write("summaries", summaries("new", range(6))),
        lambda: written.delete(advertiser_id="acme", window_start=pulls.START_MS),
    ]
    goals = [(12, 0), (24, 0), (24, 2)]

    def step() -> bool:
        totals = puller.totals()
        state = (totals.written - 6, totals.removed)
        if totals.written == 6 and steps and len(steps) == 3:
            steps.pop(0)()
        elif goals and state == goals[0]:
            goals.pop(0)
            if steps:
                steps.pop(0)()
            else:
                stopped.set()
        return stopped.is_set() or totals.rounds > 100

    puller.follow(0.05, step)
    assert stopped.is_set()
    puller.close()
    source.close()
    place.same(written, "acme", "new")


def test_a_file_of_sqlite_is_one_of_the_standard_library(written: Written, tmp_path: Path) -> None:
    written.write("summaries", summaries("acme", [0]))
    written.pull(Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db"))
    with sqlite3.connect(tmp_path / "acme.db") as file:
        found = file.execute(
            "SELECT datetime(window_start), typeof(cost_micros) FROM summaries"
        ).fetchall()
    assert found == [("2026-03-01 00:00:00", "integer")] * 2
    file.close()


def test_a_conflict_is_an_error_of_its_own(written: Written, tmp_path: Path) -> None:
    databases = Databases(f"sqlite:///{tmp_path}/{{advertiser}}.db")
    source = Source(written.config, Selection())
    puller = Puller(source, Plan(databases, ("acme",)))
    store = puller.roster.tenants["acme"].open()
    state = store.load()
    store.write(state, {}, {})
    with pytest.raises(PullConflict):
        store.write(state, {}, {})
    puller.close()
    source.close()
