"""``sivt_click_flooding``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.io import schema
from adtally.transforms.rules.base import SIVT, Found, Limits, check_threshold
from adtally.transforms.rules.history import History, HistoryRule, by_publisher, found_among

_CLICK: Final = schema.EVENT_TYPES.index("click")
_CONVERSION: Final = schema.EVENT_TYPES.index("conversion")


@dataclass(frozen=True)
class ClickFlooding(HistoryRule):
    """Very many clicks of a publisher per conversion: clicks for installs that come by themselves.

    All clicks of the publisher in the history window are suspect when there are more of them than
    the threshold for each of its conversions there, or than the threshold where it has none.
    Window: the history window, an hour; no look-back; of a stream and in batch.

    Not enough data: clicks that name no publisher, and advertisers of whose conversions none in
    the history window names a publisher: they may not be tracked.

    Weakness: who floods less than an hour's threshold passes; conversions that come a day after
    their click count for the hour that they come in.

    Attributes:
        threshold: clicks per conversion that are valid.
    """

    NAME: ClassVar[str] = "sivt_click_flooding"
    IVT_CLASS: ClassVar[str] = SIVT
    threshold: int = 10_000

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold)

    def judge(self, history: History, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.history.HistoryRule`."""
        if history.events.select((pl.col("event_type") == _CLICK).sum()).item() <= limits.lowest:
            return Found.nothing()
        hour = ["advertiser_id", "history"]
        known = history.events.lazy().filter("judged", pl.col("publisher_id").is_not_null())
        counts = known.group_by(*hour, "publisher_id").agg(
            (pl.col("event_type") == _CLICK).sum().cast(pl.Int64).alias("clicks"),
            (pl.col("event_type") == _CONVERSION).sum().cast(pl.Int64).alias("conversions"),
        )
        tracked = pl.col("conversions").sum().over(hour) > 0
        most = limits.of(pl.col("advertiser_id")) * pl.max_horizontal("conversions", 1)
        floods = counts.filter(tracked & (pl.col("clicks") > most)).collect()
        if not floods.height:
            return Found.nothing()
        clicks = known.filter(pl.col("event_type") == _CLICK)
        invalid = clicks.join(floods.lazy(), on=[*hour, "publisher_id"], how="semi").collect()
        return found_among(by_publisher(invalid), limits)
