"""What rules that look beyond a base window share.

They judge the events of whole history windows and see what came before, as far back as the
constants below say: that much is sent along as context. Within it each rule bounds by event time
how far it looks back, so its verdict is the same however many history windows were judged together.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.transforms.rules.base import FLAG_COLUMNS, Found, Limits, evidence

HISTORY_MS: Final = 3_600_000
"""A history window, unless the base window is longer."""

LOOK_BACK_MS: Final = 3_600_000
"""How far back impressions are known; all else only ``RECENT_MS``."""

RECENT_MS: Final = 180_000
"""How far back every impression and click is known whole."""


@dataclass(frozen=True)
class History:
    """Events of history windows of some advertisers, and what came before.

    Attributes:
        events: counted events, without those that no rule judges: ``row``, ``judged`` (false for
            what only came before), ``advertiser_id``, ``event_type`` (index in
            ``schema.EVENT_TYPES``), ``event_id``, ``window`` and ``history`` (starts of the base
            and the history window, ms), ``occurred_at`` (ms), ``content_hash``, ``user_id``,
            ``user_hash``, ``impression_id`` (of clicks), ``click_id`` (of conversions),
            ``publisher_id`` (of both).
        seen: all events, copies too, with the same columns.
        window_ms: length of a history window.
    """

    events: pl.DataFrame
    seen: pl.DataFrame
    window_ms: int


class HistoryRule(abc.ABC):
    """Judges the events of whole history windows, of each advertiser by itself.

    A frozen dataclass, whose fields are its settings.

    Attributes:
        NAME: what flags carry.
        IVT_CLASS: ``GIVT`` or ``SIVT``.
        threshold: the default, in the rule's own unit.
    """

    NAME: ClassVar[str]
    IVT_CLASS: ClassVar[str]
    threshold: int

    @abc.abstractmethod
    def judge(self, history: History, limits: Limits) -> Found:
        """Find invalid events among those that are ``judged``; flags name their base windows."""


def found_among(invalid: pl.DataFrame, limits: Limits) -> Found:
    """What was found, as flags: one per advertiser, base window and subject.

    Args:
        invalid: events with ``subject_type`` and ``subject``.
        limits: thresholds.
    """
    if not invalid.height:
        return Found.nothing()
    keys = ["advertiser_id", "window", "subject_type", "subject"]
    flags = invalid.group_by(keys).agg(pl.len().alias("count"), evidence())
    named = flags.with_columns(limits.of(pl.col("advertiser_id")).alias("threshold"))
    return Found(named.select(FLAG_COLUMNS.names()).cast(FLAG_COLUMNS), invalid["row"])


def by_publisher(events: pl.DataFrame) -> pl.DataFrame:
    """Add ``subject_type`` and ``subject``: the publisher, else the advertiser."""
    known = pl.col("publisher_id").is_not_null()
    return events.with_columns(
        pl.when(known)
        .then(pl.lit("publisher"))
        .otherwise(pl.lit("advertiser"))
        .alias("subject_type"),
        pl.coalesce(pl.col("publisher_id", "advertiser_id").cast(pl.String)).alias("subject"),
    )
