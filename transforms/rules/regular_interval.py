"""``givt_regular_interval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.transforms.rules.base import (
    FLAG_COLUMNS,
    GIVT,
    Found,
    Limits,
    RuleError,
    WindowRule,
    check_threshold,
    evidence,
    with_subject,
)

RESOLUTIONS_MS: Final = (60_000, 1_000)
STEPS: Final = 10
"""A mean interval below this many steps of the clock that the times were taken from says nothing:
rounding alone makes such intervals equal."""

_KEYS: Final = ["advertiser_id", "window", "subject_type", "subject"]


@dataclass(frozen=True)
class RegularInterval(WindowRule):
    """Clicks of one user (else address) on one advertiser at machine-like intervals.

    All clicks of the subject are invalid when the standard deviation of its intervals is at most
    ``variation`` of their mean. Window: the base window; no look-back; in the tally, at every pane
    in a stream and once in batch. People's intervals vary by about as much as their mean (an
    exponential distribution has a variation of 1).

    Weakness: a bot that waits at random passes. Fewer clicks than the threshold are not enough
    data, and neither are times that are too coarse for the intervals (whole minutes, or whole
    seconds and less than ten of them apart).

    Attributes:
        threshold: the least number of clicks that is judged; fewer show no rhythm.
        variation: coefficient of variation, from 0 to below 1.
    """

    NAME: ClassVar[str] = "givt_regular_interval"
    IVT_CLASS: ClassVar[str] = GIVT
    threshold: int = 5
    variation: float = 0.1

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold, least=3)
        if not 0 <= self.variation < 1:
            raise RuleError(
                f"{self.NAME}: variation {self.variation} would flag people, whose intervals vary "
                f"by about 1; give a number from 0 to below 1."
            )

    def judge(self, clicks: pl.DataFrame, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.base.WindowRule`."""
        judged = _enough(clicks, limits)
        if not judged.height:
            return Found.nothing()
        intervals = pl.col("occurred_at").sort().diff().drop_nulls()
        step = pl.lit(1)
        for resolution in reversed(RESOLUTIONS_MS):
            coarse = (pl.col("occurred_at") % resolution == 0).all()
            step = pl.when(coarse).then(pl.lit(resolution)).otherwise(step)
        measured = judged.group_by(_KEYS).agg(
            pl.len().alias("count"),
            intervals.mean().alias("mean"),
            intervals.std().alias("deviation"),
            step.alias("step"),
            evidence(),
        )
        regular = measured.filter(
            (pl.col("mean") >= STEPS * pl.col("step"))
            & (pl.col("deviation") <= self.variation * pl.col("mean"))
        )
        if not regular.height:
            return Found.nothing()
        named = regular.with_columns(limits.of(pl.col("advertiser_id")).alias("threshold"))
        invalid = judged.join(regular, on=_KEYS, how="semi")
        return Found(named.select(FLAG_COLUMNS.names()).cast(FLAG_COLUMNS), invalid["row"])

    def suspects(self, clicks: pl.DataFrame, limits: Limits) -> pl.DataFrame:
        """Any click more may break a rhythm that an earlier pane saw."""
        enough = _enough(clicks, limits)
        return enough.select("advertiser_id", "window").cast({"advertiser_id": pl.String}).unique()


def _enough(clicks: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Clicks of subjects that have at least the threshold's number of them."""
    judged = with_subject(clicks)
    counts = judged.group_by(_KEYS).len("count")
    many = counts.filter(pl.col("count") >= limits.lowest).filter(
        pl.col("count") >= limits.of(pl.col("advertiser_id"))
    )
    if not many.height:
        return judged.clear()
    return judged.join(many, on=_KEYS, how="semi")
