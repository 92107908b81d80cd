"""One tenant of a pull: what is to be written for it, and the jobs that write."""

from __future__ import annotations

import bisect
import datetime
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from adtally.io.pull_databases import DatabaseConfigError, Target
from adtally.io.pull_shards import Shard
from adtally.io.pull_source import Hit, Snapshot
from adtally.io.pull_store import UNREAD, Origin, PullConflict, SchemaTooNew, State, TenantStore
from adtally.io.pull_tables import Pulled

GROUPS: Final = 8
"""Cursors of a shard that are read from; more of them are joined, from the lowest on."""

ATTEMPTS: Final = 3
"""Of a pull that does not follow, at a database that fails."""

CONFLICTS: Final = 10
"""In a row: another machine pulls the same tenants all the time."""

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 300.0
_HOUR_MS: Final = 3_600_000
_LOG = logging.getLogger("adtally")


class RowsMissing(RuntimeError):
    """A database has fewer documents than Elasticsearch, and reading them again did not help."""


@dataclass(frozen=True)
class View:
    """A shard as a tenant has it in a snapshot: ``expected`` documents."""

    snapshot: Snapshot
    expected: int

    @property
    def shard(self) -> Shard:
        return self.snapshot.shard


@dataclass(eq=False)
class Tenant:
    """One tenant. Its job alone touches it while it is ``busy``, the puller otherwise.

    Attributes:
        open: of its engine and store; connects nowhere.
        state: of the database as last seen; None before it is loaded, and after a failure.
        unsaved: cursors that have moved past nothing of this tenant's.
        settled: every shard was read since the state was loaded.
        behind: something was passed over in this round, and is read in the next.
        error: why it failed last; without secrets.
    """

    advertiser_id: str
    target: Target
    open: Callable[[], TenantStore]
    state: State | None = None
    busy: bool = False
    settled: bool = False
    behind: bool = False
    error: str = ""
    hopeless: bool = False
    attempts: int = 0
    conflicts: int = 0
    retry_at: float = 0.0
    saved_at: float = 0.0
    written: int = 0
    removed: int = 0
    unsaved: dict[int, Origin] = field(default_factory=dict)
    waiting: dict[str, dict[str, Pulled]] = field(default_factory=dict)
    reached: dict[int, Origin] = field(default_factory=dict)
    read_again: set[int] = field(default_factory=set)
    _origins: dict[tuple[str, int, str], int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.state is not None and not self.busy and not self.behind

    def origin(self, shard: Shard) -> int:
        key = (shard.index, shard.number, shard.history)
        if key not in self._origins:
            self._origins[key] = shard.origin(self.advertiser_id)
        return self._origins[key]

    def cursor(self, origin: int) -> int:
        if self.state is None:
            return UNREAD
        known = self.unsaved.get(origin) or self.state.origins.get(origin)
        return known.seq_no if known else UNREAD

    def add(self, shard: Shard, origin: int, hit: Hit) -> None:
        """Keep a document until it is written."""
        pulled = Pulled(origin, hit.primary_term, hit.seq_no, bytes(hit.source))
        self.waiting.setdefault(shard.kind, {})[hit.id] = pulled
        if origin not in self.reached:  # it may be written before its cursor moves
            at = Origin(shard.kind, shard.index, self.cursor(origin))
            self.reached[origin] = at

    def job(self, work: Callable[[TenantStore, State | None], State]) -> Callable[[], None]:
        """Work on the database, whose failure is this tenant's alone."""

        def run() -> None:
            try:
                self.state = work(self.open(), self.state)
                self.error, self.attempts, self.conflicts = "", 0, 0
            except PullConflict:
                self.conflicts += 1
                self._failed("another pull of it is at work", self.conflicts >= CONFLICTS)
            except (SchemaTooNew, DatabaseConfigError) as error:
                self.hopeless = True
                self._failed(str(error), True)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is no other tenant's)
                self._failed(_reason(error), True)
            finally:
                self.busy = False

        self.busy = True
        return run

    def _failed(self, reason: str, counts: bool) -> None:
        self.state, self.settled, self.behind = None, False, True
        self.waiting, self.reached, self.unsaved = {}, {}, {}
        if counts:
            self.attempts += 1
            waits = FIRST_WAIT_SECONDS * 2 ** min(self.attempts, 10)
            self.retry_at = time.monotonic() + min(waits, LONGEST_WAIT_SECONDS)
            self.error = self.target.redacted(reason)

    def write(self, store: TenantStore, state: State | None) -> State:
        """Write what waits, as far as it was read."""
        assert state is not None
        documents, origins = self.waiting, {**self.unsaved, **self.reached}
        self.waiting, self.reached, self.unsaved = {}, {}, {}
        after = store.write(state, documents, origins)
        self.written += sum(len(found) for found in documents.values())
        self.saved_at = time.monotonic()
        return after

    def complete(self, views: Sequence[View]) -> Callable[[TenantStore, State | None], State]:
        """Work that writes what waits, then deletes what snapshots do not have."""

        def work(store: TenantStore, state: State | None) -> State:
            after = self.write(store, state)
            gone: dict[int, list[str]] = {}
            for view in views:
                origin = self.origin(view.shard)
                known = after.origins.get(origin)
                have = known.documents if known else 0
                if have > view.expected:
                    gone[origin] = sorted(self._gone(store, origin, view))
                elif have < view.expected:
                    self._missing(after, origin, view, have)
            return self._removed(store, after, gone, ()) if gone else after

        return work

    def drop(self, origins: Sequence[int]) -> Callable[[TenantStore, State | None], State]:
        """Work that deletes all of shards that are no more."""

        def work(store: TenantStore, state: State | None) -> State:
            assert state is not None
            return self._removed(store, state, {}, origins)

        return work

    def _removed(
        self,
        store: TenantStore,
        state: State,
        gone: dict[int, list[str]],
        dropped: Sequence[int],
    ) -> State:
        after = store.remove(state, gone, dropped)
        self.removed += sum(x.documents for x in state.origins.values())
        self.removed -= sum(x.documents for x in after.origins.values())
        return after

    def _gone(self, store: TenantStore, origin: int, view: View) -> set[str]:
        """Documents that a snapshot has no more: the hours whose numbers differ are compared."""
        there = view.snapshot.hours(self.advertiser_id) if view.expected else {}
        here: dict[int, int] = {}
        for start, count in store.windows(view.shard.kind, origin).items():
            hour = _ms(start) // _HOUR_MS * _HOUR_MS
            here[hour] = here.get(hour, 0) + count
        gone: set[str] = set()
        for hour, count in here.items():
            if count != there.get(hour, 0):
                known = view.snapshot.ids(self.advertiser_id, hour) if hour in there else set()
                low, high = _iso(hour), _iso(hour + _HOUR_MS)
                gone |= store.ids(view.shard.kind, origin, low, high) - known
        return gone

    def _missing(self, state: State, origin: int, view: View, have: int) -> None:
        if origin in self.read_again:
            raise RowsMissing(
                f"{view.shard.index} has {view.expected:,} documents of it and the database "
                f"{have:,}, though all were read; is one of them in two indices?"
            )
        self.read_again.add(origin)
        self.behind = True
        state.origins[origin] = Origin(view.shard.kind, view.shard.index, UNREAD, have)
        _LOG.warning(
            "%s: the database lacks %d documents of %s; reading them again",
            self.advertiser_id[:100],
            view.expected - have,
            view.shard.index,
        )


def joined(behind: dict[int, list[Tenant]]) -> list[tuple[int, list[Tenant]]]:
    """Tenants by cursor, in at most :data:`GROUPS` groups: small ones are read from the cursor of a
    larger one below them."""
    if len(behind) <= GROUPS:
        return list(behind.items())
    largest = sorted(behind, key=lambda cursor: -len(behind[cursor]))[: GROUPS - 1]
    anchors = sorted({*largest, min(behind)})
    groups: dict[int, list[Tenant]] = {anchor: [] for anchor in anchors}
    for cursor, tenants in behind.items():
        groups[anchors[bisect.bisect_right(anchors, cursor) - 1]] += tenants
    return list(groups.items())


def _reason(error: Exception) -> str:
    """The first line of an error; SQLAlchemy adds the statement and a link."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    lines = str(original).strip().splitlines()
    return f"{type(original).__name__}: {lines[0][:300]}" if lines else type(original).__name__


def _ms(start: str) -> int:
    return round(datetime.datetime.fromisoformat(start).timestamp() * 1000)


def _iso(ms: int) -> str:
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
