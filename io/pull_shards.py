"""What is pulled, and the shards that it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adtally.io.pull_tables import SCHEMA_VERSION


@dataclass(frozen=True)
class Selection:
    """Which documents are pulled.

    Attributes:
        kinds: of ``summaries``, ``flags``, ``verdicts`` and ``anomalies``.
        window_seconds: sizes of windows of summaries; empty for all.
        from_ms: windows that begin then or later; None for all.
        to_ms: and before this.
    """

    kinds: tuple[str, ...] = ("summaries", "flags", "verdicts", "anomalies")
    window_seconds: tuple[int, ...] = ()
    from_ms: int | None = None
    to_ms: int | None = None

    def filters(self, kind: str) -> list[dict[str, Any]]:
        """Of a query."""
        made: list[dict[str, Any]] = []
        if kind == "summaries" and self.window_seconds:
            made.append({"terms": {"window_seconds": sorted(self.window_seconds)}})
        if self.from_ms is not None or self.to_ms is not None:
            ends = {"gte": self.from_ms, "lt": self.to_ms, "format": "epoch_millis"}
            known = {key: end for key, end in ends.items() if end is not None}
            made.append({"range": {"window_start": known}})
        return made

    def history(self, kind: str, ids: Sequence[str]) -> str:
        """Name of a shard's history as it is selected: a change of either is read from the start.

        Args:
            kind: of document.
            ids: Elasticsearch's own, of the index and the shard.
        """
        selected = msgspec.json.encode([*ids, self.filters(kind), SCHEMA_VERSION])
        return hashlib.sha256(selected).hexdigest()[:32]


@dataclass(frozen=True)
class Shard:
    """One shard as it is now.

    Attributes:
        history: of its numbers, and of what is selected from it.
        checkpoint: its global checkpoint; -1 for an empty one.
    """

    kind: str
    index: str
    number: int
    history: str
    checkpoint: int

    def origin(self, advertiser_id: str) -> int:
        """63 bits that stand for this history of the shard in a tenant's database."""
        parts = (advertiser_id, self.index, str(self.number), self.history)
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") >> 1
