"""``givt_click_rate_user`` and ``givt_impression_rate_user``."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import polars as pl

from adtally.io import schema
from adtally.transforms.rules.base import GIVT, Found, Limits, check_threshold
from adtally.transforms.rules.history import RECENT_MS, History, HistoryRule, found_among

RATE_MS: Final = 180_000
"""Three minutes, as mozilla/gcp-ingestion counts."""

assert RATE_MS <= RECENT_MS

_USER: Final = ["advertiser_id", "user_id"]


class _UserRate(HistoryRule, abc.ABC):
    EVENT_TYPE: ClassVar[str]

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold)

    def judge(self, history: History, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.history.HistoryRule`."""
        code = schema.EVENT_TYPES.index(self.EVENT_TYPE)
        of_users = history.events.lazy().filter(
            (pl.col("event_type") == code) & pl.col("user_id").is_not_null()
        )
        # More than n events within three minutes touch two periods of the clock at most, so one of
        # these has more than half of them.
        minimum = limits.lowest // 2 + 1
        by_hash = ["advertiser_id", "user_hash"]
        busy = (
            of_users.group_by(*by_hash, pl.col("occurred_at") // RATE_MS)
            .len("count")
            .filter(pl.col("count") >= minimum)
            .select(by_hash)
            .unique()
            .collect()
        )
        if not busy.height:
            return Found.nothing()
        ordered = of_users.join(busy.lazy(), on=by_hash, how="semi").sort(
            *_USER, "occurred_at", "event_id", "content_hash"
        )
        over = _over(ordered.collect(), limits)
        return found_among(
            over.filter("judged").with_columns(
                subject_type=pl.lit("user"), subject=pl.col("user_id")
            ),
            limits,
        )


def _over(ordered: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Events that are more than the threshold's number within the three minutes that they end."""
    begins = ordered.with_row_index("at").select(pl.col("at").min().over(_USER)).to_series()
    row = np.arange(ordered.height)
    earlier = row - ordered.select(limits.of(pl.col("advertiser_id"))).to_series().to_numpy()
    times = ordered["occurred_at"].to_numpy()
    same_user = earlier >= begins.to_numpy()
    within = times - times[np.maximum(earlier, 0)] < RATE_MS
    return ordered.filter(pl.Series(same_user & within, dtype=pl.Boolean))


@dataclass(frozen=True)
class ClickRateUser(_UserRate):
    """More clicks of one user on one advertiser within three minutes than people make.

    Of clicks that are less than three minutes from the first to the last, those after the
    threshold's number are invalid. Window: three minutes before each click, in event time; in the
    history windows, of a stream and in batch.

    Weakness: clicks without a user id are not judged; a robot that takes a new id for every click
    passes.

    Attributes:
        threshold: clicks that are valid. 10 within 3 minutes is what mozilla/gcp-ingestion takes
            (contextual services, ``LabelSpikes``).
    """

    NAME: ClassVar[str] = "givt_click_rate_user"
    IVT_CLASS: ClassVar[str] = GIVT
    EVENT_TYPE: ClassVar[str] = "click"
    threshold: int = 10


@dataclass(frozen=True)
class ImpressionRateUser(_UserRate):
    """More impressions of one user from one advertiser within three minutes than people get.

    As :class:`ClickRateUser`. Weakness: a page that reloads its placements shows many.

    Attributes:
        threshold: impressions that are valid; 20 within 3 minutes, same source.
    """

    NAME: ClassVar[str] = "givt_impression_rate_user"
    IVT_CLASS: ClassVar[str] = GIVT
    EVENT_TYPE: ClassVar[str] = "impression"
    threshold: int = 20
