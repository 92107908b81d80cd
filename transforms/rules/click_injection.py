"""``sivt_click_injection``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.io import schema
from adtally.transforms.rules.base import SIVT, Found, Limits, RuleError, check_threshold
from adtally.transforms.rules.history import (
    RECENT_MS,
    History,
    HistoryRule,
    by_publisher,
    found_among,
)

MINUTE_MS: Final = 60_000
_CLICK: Final = schema.EVENT_TYPES.index("click")
_CONVERSION: Final = schema.EVENT_TYPES.index("conversion")


@dataclass(frozen=True)
class ClickInjection(HistoryRule):
    """Conversions right after the click that they name, sooner than people can.

    A click that is made up at the moment of an install takes the credit for it. The conversion is
    suspect when its click was less than the threshold before it. Look-back: the threshold, in event
    time; in the history windows, of a stream and in batch.

    Not enough data: a conversion that names no click; a click that is not known; a delay that the
    data cannot tell, where both come from one record, or both times are whole minutes. A click
    dated after its conversion says that clocks differ, and is not suspect.

    Weakness: one-click purchases convert as fast; the click itself stays valid.

    Attributes:
        threshold: milliseconds from click to conversion from which on it is valid. Nobody reads a
            page and buys within 2 s; no figure is agreed on.
    """

    NAME: ClassVar[str] = "sivt_click_injection"
    IVT_CLASS: ClassVar[str] = SIVT
    threshold: int = 2_000

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold)
        if self.threshold > RECENT_MS:
            raise RuleError(
                f"{self.NAME}: threshold {self.threshold} is beyond the {RECENT_MS} ms that clicks "
                f"are looked back for; give that or less."
            )

    def judge(self, history: History, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.history.HistoryRule`."""
        conversions = history.events.filter(
            pl.col("judged")
            & (pl.col("event_type") == _CONVERSION)
            & pl.col("click_id").is_not_null()
        )
        if not conversions.height:
            return Found.nothing()
        clicks = history.seen.filter(pl.col("event_type") == _CLICK).select(
            "advertiser_id",
            pl.col("event_id").alias("click_id"),
            pl.col("occurred_at").alias("clicked_at"),
            pl.col("content_hash").alias("record"),
        )
        delay = pl.col("occurred_at") - pl.col("clicked_at")
        coarse = (pl.col("occurred_at") % MINUTE_MS == 0) & (pl.col("clicked_at") % MINUTE_MS == 0)
        fast = (
            conversions.join(clicks, on=["advertiser_id", "click_id"])
            .filter((delay >= 0) & (delay < limits.of(pl.col("advertiser_id"))))
            .filter(~coarse & (pl.col("content_hash") != pl.col("record")))
        )
        return found_among(
            by_publisher(conversions.join(fast.select("row"), on="row", how="semi")), limits
        )
