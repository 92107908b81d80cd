"""Who is pulled, and into what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from adtally.io.pull_databases import Databases, Target, create_database, open_engine
from adtally.io.pull_sql import advertisers_of
from adtally.io.pull_store import TenantStore
from adtally.pipelines.pull_tenants import Tenant

BUFFER_BYTES: Final = 128 << 20
"""Of documents that wait to be written; of 2,000 tenants each has a transaction for 60 kB."""


@dataclass
class Totals:
    """What a pull has done so far."""

    tenants: int = 0
    read: int = 0
    written: int = 0
    removed: int = 0
    rounds: int = 0
    kept: int = 0
    without_database: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by advertiser, with the address of the database; without secrets."""


@dataclass(frozen=True)
class Plan:
    """What to pull.

    Attributes:
        databases: which is whose.
        advertisers: those to pull; None for all that Elasticsearch has.
        workers: jobs at a time on one database server.
        drop: delete rows of indices that are gone, too.
        buffer_bytes: see :data:`BUFFER_BYTES`.
        patience_seconds: for the last databases, when all others are done.
    """

    databases: Databases
    advertisers: tuple[str, ...] | None = None
    workers: int = 8
    drop: bool = False
    buffer_bytes: int = BUFFER_BYTES
    patience_seconds: float = 120.0


class Roster:
    """The tenants of a pull. Advertisers without a database are passed over, and counted.

    Attributes:
        tenants: by advertiser.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.tenants: dict[str, Tenant] = {}
        self._engines: dict[sa.URL, sa.Engine] = {}
        self._without: set[str] = set()
        for advertiser in self._known():
            self.admit(advertiser)

    def _known(self) -> Iterator[str]:
        if self._plan.advertisers is not None:
            yield from self._plan.advertisers
            return
        yield from self._plan.databases.named
        for path in self._plan.databases.existing():  # Elasticsearch may have nothing of them left
            for advertiser in advertisers_of(path):
                target = self._plan.databases.of(advertiser)
                if target and Path(str(target.url.database)).name == path.name:  # no copy of it
                    yield advertiser

    def admit(self, advertiser_id: str) -> bool:
        """Whether this advertiser is pulled and was not known."""
        if advertiser_id in self.tenants or advertiser_id in self._without:
            return False
        target = self._plan.databases.of(advertiser_id)
        if target is None:
            self._without.add(advertiser_id)
            return False
        self.tenants[advertiser_id] = Tenant(
            advertiser_id, target, lambda: self._store(target, advertiser_id)
        )
        return True

    def _store(self, target: Target, advertiser_id: str) -> TenantStore:
        engine = self._engines.get(target.url)
        if engine is None:
            if self._plan.databases.create and target.dialect != "sqlite":
                create_database(target)
            shared = self._plan.workers if target.schema else 0
            engine = self._engines.setdefault(target.url, open_engine(target, shared))
        return TenantStore(engine, target, advertiser_id)

    def add_up(self, totals: Totals) -> Totals:
        """Fill in what tenants know. Safe to call from another thread."""
        tenants = list(self.tenants.values())
        totals.tenants = len(tenants)
        totals.written = sum(tenant.written for tenant in tenants)
        totals.removed = sum(tenant.removed for tenant in tenants)
        totals.without_database = len(self._without)
        totals.failed = {
            tenant.advertiser_id: f"{tenant.target.shown()}: {tenant.error}"
            for tenant in tenants
            if tenant.error
        }
        return totals

    def close(self) -> None:
        """Let connections go."""
        for engine in self._engines.values():
            engine.dispose()
