"""``sivt_click_without_impression``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.io import schema
from adtally.transforms.rules.base import SIVT, Found, Limits, check_threshold
from adtally.transforms.rules.history import (
    LOOK_BACK_MS,
    History,
    HistoryRule,
    by_publisher,
    found_among,
)

SKEW_MS: Final = 10_000
"""Clocks of two servers: an impression dated so much after its click still belongs to it."""

ENOUGH_MS: Final = 1_800_000
"""An advertiser's impressions have to be known for at least so long before a click is judged."""

_IMPRESSION: Final = schema.EVENT_TYPES.index("impression")
_CLICK: Final = schema.EVENT_TYPES.index("click")


@dataclass(frozen=True)
class ClickWithoutImpression(HistoryRule):
    """Clicks that name an impression which nobody saw.

    A click is suspect when its ``impression_id`` is none of the advertiser's impressions of the
    hour before it, nor of the ten seconds after it in the same history window (clocks differ).
    Look-back: an hour, in event time; in the history windows, of a stream and in batch.

    Not enough data: a click that names no impression, and one before which the advertiser's
    impressions are not known for half an hour: the log begins there, or has no impressions at all.

    Weakness: an impression that was lost, or came too late to count, makes its click suspect; so
    does a click that comes more than an hour after its impression. A robot that loads what it
    clicks passes.

    Attributes:
        threshold: such clicks of a publisher (else the advertiser) per base window that are let
            pass.
    """

    NAME: ClassVar[str] = "sivt_click_without_impression"
    IVT_CLASS: ClassVar[str] = SIVT
    threshold: int = 0

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold, least=0)

    def judge(self, history: History, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.history.HistoryRule`."""
        clicks = history.events.filter(
            pl.col("judged")
            & (pl.col("event_type") == _CLICK)
            & pl.col("impression_id").is_not_null()
        )
        if not clicks.height:
            return Found.nothing()
        impressions = history.seen.lazy().filter(pl.col("event_type") == _IMPRESSION)
        known = _without(clicks, impressions, history.window_ms)
        judged = _with_enough(known, impressions, history.window_ms)
        named = by_publisher(judged)
        count = pl.len().over("advertiser_id", "window", "subject_type", "subject")
        return found_among(named.filter(count > limits.of(pl.col("advertiser_id"))), limits)


def _without(clicks: pl.DataFrame, impressions: pl.LazyFrame, window_ms: int) -> pl.DataFrame:
    """Clicks whose impression was not seen."""
    gap = pl.col("occurred_at") - pl.col("shown_at")
    matched = (
        clicks.lazy()
        .join(
            impressions.select(
                "advertiser_id",
                pl.col("event_id").alias("impression_id"),
                pl.col("occurred_at").alias("shown_at"),
            ),
            on=["advertiser_id", "impression_id"],
        )
        .filter(gap.is_between(-SKEW_MS, LOOK_BACK_MS))
        .filter(pl.col("shown_at") < pl.col("history") + window_ms)
        .select("row")
    )
    return clicks.lazy().join(matched, on="row", how="anti").collect()


def _with_enough(clicks: pl.DataFrame, impressions: pl.LazyFrame, window_ms: int) -> pl.DataFrame:
    """Clicks before which the advertiser's impressions are known for long enough."""
    if not clicks.height:
        return clicks
    at, end = pl.col("occurred_at"), pl.col("history") + window_ms
    theirs = impressions.join(clicks.lazy().select("advertiser_id"), on="advertiser_id", how="semi")
    own = theirs.group_by("advertiser_id", "history").agg(at.min().alias("first"))
    before = (
        theirs.filter(at >= end - LOOK_BACK_MS)
        .group_by("advertiser_id", end.alias("history"))
        .agg(at.min().alias("before"))
    )
    keys = ["advertiser_id", "history"]
    known = (
        clicks.lazy()
        .join(own, on=keys, how="left")
        .join(before, on=keys, how="left")
        .filter(at - pl.min_horizontal("first", "before") >= ENOUGH_MS)
    )
    return known.drop("first", "before").collect()
