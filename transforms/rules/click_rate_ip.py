"""``givt_click_rate_ip``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
)


@dataclass(frozen=True)
class ClickRateIp(WindowRule):
    """More clicks from one address on one advertiser within a base window than people make.

    All clicks of the address are invalid. Window: the base window; no look-back; in the tally, at
    every pane in a stream and once in batch.

    Weakness: many people share an address (offices, mobile carriers behind NAT), so the threshold
    is generous; a bot that spreads over addresses passes. Clicks without an address are not
    judged.

    Attributes:
        threshold: clicks per ip, advertiser and base window that are still valid. No figure is
            agreed on: published practice runs from 3 an hour to 10 a day per ip, which a busy NAT
            exceeds; 30 within a minute is one every two seconds.
    """

    NAME: ClassVar[str] = "givt_click_rate_ip"
    IVT_CLASS: ClassVar[str] = GIVT
    threshold: int = 30

    def __post_init__(self) -> None:
        check_threshold(self.NAME, self.threshold)

    def judge(self, clicks: pl.DataFrame, limits: Limits) -> Found:
        """See :class:`adtally.transforms.rules.base.WindowRule`."""
        keys = ["advertiser_id", "window", "ip"]
        counts = clicks.filter(pl.col("ip").is_not_null()).group_by(keys).len("count")
        over = counts.filter(pl.col("count") > limits.lowest).filter(
            pl.col("count") > limits.of(pl.col("advertiser_id"))
        )
        if not over.height:  # most panes: a join of nothing costs half a millisecond
            return Found.nothing()
        invalid = clicks.join(over, on=keys, how="semi")
        flags = invalid.group_by(keys).agg(pl.len().alias("count"), evidence())
        named = flags.with_columns(
            pl.lit("ip").alias("subject_type"),
            pl.col("ip").alias("subject"),
            limits.of(pl.col("advertiser_id")).alias("threshold"),
        )
        return Found(named.select(FLAG_COLUMNS.names()).cast(FLAG_COLUMNS), invalid["row"])

    def suspects(self, clicks: pl.DataFrame, limits: Limits) -> pl.DataFrame:
        """With more events a count only falls when a copy with another address is counted instead.

        So no count ever was above that of all copies together.
        """
        found = self.judge(
            copies_of(clicks).unique(["advertiser_id", "window", "ip", "event_id"]), limits
        )
        return found.flags.select("advertiser_id", "window").unique()
