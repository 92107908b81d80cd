"""``givt_duplicate_click``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.transforms.rules.base import (
    FLAG_COLUMNS,
    GIVT,
    Found,
    Limits,
    WindowRule,
    check_threshold,
    copies_of,
    evidence,
    with_subject,
)

INTERVAL_MS: Final = 60_000
_PLACE: Final = ("advertiser_id", "window", "subject_type", "subject", "creative_hash", "minute")


@dataclass(frozen=True)
class DuplicateClick(WindowRule):
    """The same user (else address) clicks on the same creative again within a minute.

    The first clicks, up to the threshold, are valid; the others are not. Window: a minute of the
    clock inside the base window (a base window below a minute is the window); no look-back; in the
    tally, at every pane in a stream and once in batch.

    Weakness: minutes are the clock's, so of two clicks a second apart both may be valid. Clicks
    that name no creative, or neither user nor address, are not judged. People behind one address
    and without a user id are taken for one.

    Attributes:
        threshold: clicks that are valid per minute. Published practice runs from 1 a minute to 1
            in 24 hours; this is the most lenient.
    """

    NAME: ClassVar[str] = "givt_duplicate_click"
    IVT_CLASS: ClassVar[str] = GIVT
    threshold: int = 1

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold)

    def judge(self, clicks: pl.DataFrame, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.base.WindowRule`."""
        again = _often(clicks, limits.lowest)
        if not again.height:
            return Found.nothing()
        nth = pl.int_range(1, pl.len() + 1).over(_PLACE)
        invalid = again.sort("occurred_at", "content_hash", "event_id").filter(
            nth > limits.of(pl.col("advertiser_id"))
        )
        if not invalid.height:
            return Found.nothing()
        keys = ["advertiser_id", "window", "subject_type", "subject"]
        flags = invalid.group_by(keys).agg(pl.len().alias("count"), evidence())
        named = flags.with_columns(limits.of(pl.col("advertiser_id")).alias("threshold"))
        return Found(named.select(FLAG_COLUMNS.names()).cast(FLAG_COLUMNS), invalid["row"])

    def suspects(self, clicks: pl.DataFrame, limits: Limits) -> pl.DataFrame:
        """More events only add clicks to a place; a copy may leave it for another."""
        often = _often(copies_of(clicks), limits.lowest)
        return often.select("advertiser_id", "window").cast({"advertiser_id": pl.String}).unique()


def _often(clicks: pl.DataFrame, threshold: int) -> pl.DataFrame:
    """Clicks of places that have more than ``threshold``."""
    judged = with_subject(clicks.filter(pl.col("creative_hash").is_not_null())).with_columns(
        (pl.col("occurred_at") // INTERVAL_MS).alias("minute")
    )
    counts = judged.group_by(_PLACE).len("count").filter(pl.col("count") > threshold)
    if not counts.height:
        return judged.clear()
    return judged.join(counts, on=_PLACE, how="semi")
