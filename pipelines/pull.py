"""``adtally pull``: from Elasticsearch to the databases of tenants, round by round."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from adtally.io.pull_shards import Shard
from adtally.io.pull_source import PAGE_DOCUMENTS, Hit, Snapshot, SnapshotLost, Source
from adtally.io.pull_store import Origin, State, TenantStore
from adtally.pipelines.pull_roster import Plan, Roster, Totals
from adtally.pipelines.pull_tenants import ATTEMPTS, FIRST_WAIT_SECONDS, Tenant, View, joined
from adtally.pipelines.pull_workers import Workers, ahead

SHARDS_AT_A_TIME: Final = 16
"""Snapshots that are open at a time."""

WINDOW_NUMBERS: Final = 50_000
"""Operations of a shard that are read before a cursor moves; more where few documents are left of
them."""

FLUSH_SECONDS: Final = 20.0
"""Documents wait no longer to be written: what a pull loses that is killed."""

FEW_NAMES: Final = 10_000
"""Advertisers in one query; Elasticsearch takes 65,536."""

SAVE_SECONDS: Final = 60.0
"""A cursor that passes over others' documents only is saved this often while following."""

LOST_SNAPSHOTS: Final = 20
"""In a row: a cluster that cannot keep a snapshot for a round will not keep the next either."""

_LOG = logging.getLogger("adtally")


class Puller:
    """Brings databases to where Elasticsearch is.

    Args:
        source: of the documents.
        plan: what to pull.
    """

    def __init__(self, source: Source, plan: Plan) -> None:
        self._source = source
        self._plan = plan
        self._workers = Workers(plan.workers)
        self.roster = Roster(plan)
        self._seen: dict[tuple[str, int], Shard] = {}
        self._emptied()
        self._totals = Totals()
        self._following = False

    def totals(self) -> Totals:
        """What was done so far. Safe to ask for from another thread."""
        return self.roster.add_up(self._totals)

    def close(self) -> None:
        """Let connections go."""
        self.roster.close()

    def once(self) -> Totals:
        """Pull until every database is where Elasticsearch was when it was read, or has failed
        :data:`ATTEMPTS` times.

        Raises:
            ElasticsearchUnavailable: it was away for too long.
            AccessDenied: these credentials may not.
        """
        while True:
            more = self._round()
            waiting = [x.retry_at for x in self.roster.tenants.values() if self._unfinished(x)]
            if more or waiting:
                time.sleep(max(0.0, min(waiting, default=0.0) - time.monotonic()))
            elif not any(tenant.busy for tenant in self.roster.tenants.values()):
                return self.totals()
            elif not self._workers.finish(self._plan.patience_seconds):
                for tenant in self.roster.tenants.values():
                    if tenant.busy:
                        tenant.error = f"no answer for {self._plan.patience_seconds:.0f} s"
                return self.totals()

    @staticmethod
    def _unfinished(tenant: Tenant) -> bool:
        tries = not tenant.hopeless and tenant.attempts < ATTEMPTS
        return not tenant.busy and not tenant.settled and tries

    def follow(self, every_seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Pull for ever, a round every so often; rounds that find new tenants go on at once.

        Args:
            every_seconds: from the beginning of a round to that of the next, at least.
            stop: asked between rounds.

        Raises:
            ElasticsearchUnavailable: it was away for too long.
            AccessDenied: these credentials may not.
        """
        self._following = True
        while not stop():
            begun = time.monotonic()
            told = dict(self.totals().failed)
            if not self._round():
                for advertiser, reason in self.totals().failed.items():
                    if advertiser not in told:
                        _LOG.warning("%s, %s; trying again later", advertiser[:100], reason)
                time.sleep(max(0.0, begun + every_seconds - time.monotonic()))

    def _round(self) -> bool:
        """Bring every tenant that can be to where Elasticsearch is; whether to go on at once."""
        self._totals.rounds += 1
        self._load()
        for attempt in range(LOST_SNAPSHOTS):
            try:
                return self._pull()
            except SnapshotLost as error:
                _LOG.warning("a snapshot of Elasticsearch is lost (%s); taking another", error)
                self._workers.settle()
                time.sleep(FIRST_WAIT_SECONDS * min(attempt, 10))
        return self._pull()

    def _load(self) -> None:
        """Ask databases for their states: new ones, and those that failed and are due."""
        now = time.monotonic()
        for tenant in self.roster.tenants.values():
            if tenant.busy:
                continue
            tenant.behind = False
            due = tenant.retry_at <= now and (self._following or tenant.attempts < ATTEMPTS)
            if tenant.state is None and not tenant.hopeless and due:
                self._submit(tenant, lambda store, _: store.load())
        self._workers.settle()

    def _pull(self) -> bool:
        shards = self._source.shards()
        taking = [
            tenant
            for tenant in self.roster.tenants.values()
            if tenant.ready and (self._following or not tenant.settled)
        ]
        full = any(not tenant.settled for tenant in taking) or not self._seen
        changed = [x for x in shards if full or self._seen.get((x.index, x.number)) != x]
        found = False
        for start in range(0, len(changed), SHARDS_AT_A_TIME):
            found |= self._pull_some(changed[start : start + SHARDS_AT_A_TIME], taking)
        self._drop(taking, shards)
        for tenant in taking:
            tenant.settled = tenant.ready
        if all(tenant.settled for tenant in taking):
            self._seen = {(x.index, x.number): x for x in shards}
        return found

    def _pull_some(self, shards: Sequence[Shard], taking: Sequence[Tenant]) -> bool:
        """Pull from some shards; whether new advertisers were found, for the next round.

        States of ``taking`` are from before the snapshots: work of others since would be undone.
        """
        found = False
        with contextlib.ExitStack() as opened:
            snapshots: list[tuple[Snapshot, dict[str, int]]] = []
            for shard in shards:
                snapshot = self._source.snapshot(shard)
                opened.callback(snapshot.close)
                documents = snapshot.documents()
                snapshots.append((snapshot, documents))
                if self._plan.advertisers is None:
                    found |= any([*map(self.roster.admit, documents)])
            for snapshot, documents in snapshots:
                self._read(snapshot, documents, taking)
            for tenant in taking:
                self._complete(tenant, snapshots)
            self._workers.settle()
            self._emptied()
        return found

    def _read(
        self, snapshot: Snapshot, documents: dict[str, int], taking: Sequence[Tenant]
    ) -> None:
        """Read what is new in a shard; the largest group of tenants with one cursor comes first."""
        shard = snapshot.shard
        behind: dict[int, list[Tenant]] = {}
        for tenant in taking:
            if tenant.ready and tenant.advertiser_id in documents:
                behind.setdefault(tenant.cursor(tenant.origin(shard)), []).append(tenant)
        for after, tenants in sorted(joined(behind), key=lambda group: -len(group[1])):
            if 2 * len(tenants) > len(documents):
                self._read_group(snapshot, after, tenants, None)
                continue
            for start in range(0, len(tenants), FEW_NAMES):
                some = tenants[start : start + FEW_NAMES]
                self._read_group(snapshot, after, some, [x.advertiser_id for x in some])

    def _read_group(
        self, snapshot: Snapshot, low: int, tenants: list[Tenant], names: list[str] | None
    ) -> None:
        shard = snapshot.shard
        wanted = {}
        for tenant in tenants:
            origin = tenant.origin(shard)
            wanted[tenant.advertiser_id] = (tenant, origin, tenant.cursor(origin))
        after: int | None = low
        size = WINDOW_NUMBERS
        while after is not None:
            to = after + size if after + size < shard.checkpoint else None
            found = 0
            for hits in ahead(snapshot.pages(after, to, names)):
                found += len(hits)
                self._keep(shard, hits, wanted)
            reached = Origin(shard.kind, shard.index, shard.checkpoint if to is None else to)
            for tenant, origin, cursor in wanted.values():
                if tenant.ready and cursor < reached.seq_no:
                    tenant.reached[origin] = reached
            if self._bytes > self._plan.buffer_bytes or time.monotonic() > self._flush_at:
                self._flush()
            after = to
            size = WINDOW_NUMBERS if found >= PAGE_DOCUMENTS else 2 * size

    def _keep(
        self, shard: Shard, hits: Sequence[Hit], wanted: dict[str, tuple[Tenant, int, int]]
    ) -> None:
        self._totals.read += len(hits)
        for hit in hits:
            known = wanted.get(hit.advertiser_id)
            if known is None or hit.seq_no <= known[2]:
                continue
            tenant, origin, _ = known
            if tenant.ready:
                tenant.add(shard, origin, hit)
                self._bytes += len(hit.source)
            else:
                tenant.behind = True
        if self._bytes > 2 * self._plan.buffer_bytes:  # of a window with long documents
            self._flush()

    def _flush(self) -> None:
        for tenant in self.roster.tenants.values():
            if tenant.waiting and tenant.ready:
                self._submit(tenant, tenant.write)
        self._workers.settle()
        self._emptied()

    def _emptied(self) -> None:
        self._bytes = 0
        self._flush_at = time.monotonic() + FLUSH_SECONDS

    def _submit(self, tenant: Tenant, work: Callable[[TenantStore, State | None], State]) -> None:
        self._workers.submit(tenant.target.server, tenant.job(work))

    def _complete(self, tenant: Tenant, snapshots: list[tuple[Snapshot, dict[str, int]]]) -> None:
        """Have a tenant's rows written and compared with the snapshots, where there is a reason."""
        if not tenant.ready or tenant.state is None:
            return
        views = []
        for snapshot, documents in snapshots:
            origin = tenant.origin(snapshot.shard)
            expected = documents.get(tenant.advertiser_id, 0)
            if expected or origin in tenant.state.origins:
                views.append(View(snapshot, expected))
        known = tenant.state.origins
        differs = any(
            view.expected != getattr(known.get(tenant.origin(view.shard)), "documents", 0)
            for view in views
        )
        for origin, reached in list(tenant.reached.items()):
            if origin in known and known[origin].seq_no == reached.seq_no:
                del tenant.reached[origin]
        due = not self._following or time.monotonic() > tenant.saved_at + SAVE_SECONDS
        if tenant.waiting or differs or (due and (tenant.reached or tenant.unsaved)):
            self._submit(tenant, tenant.complete(views))
        else:
            tenant.unsaved |= tenant.reached
            tenant.reached = {}

    def _drop(self, taking: Sequence[Tenant], shards: Sequence[Shard]) -> None:
        """Delete rows of histories that have been replaced, and perhaps those of indices that are
        gone."""
        by_index: dict[str, list[Shard]] = {}
        for shard in shards:
            by_index.setdefault(shard.index, []).append(shard)
        kinds = self._source.kinds
        kept = 0
        for tenant in taking:
            if not tenant.ready or tenant.state is None:
                continue
            old = []
            for origin, known in tenant.state.origins.items():
                current = by_index.get(known.index_name, ())
                if known.kind not in kinds or origin in map(tenant.origin, current):
                    continue
                if current or self._plan.drop:
                    old.append(origin)
                else:
                    kept += known.documents
            if old:
                self._submit(tenant, tenant.drop(old))
        self._totals.kept = kept
        self._workers.settle()
