"""Quotas: how many events of an advertiser a base window may hold. They judge nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from adtally.transforms.rules.base import MOST, RuleError

QUOTA_MEASURES: Final = {
    "impressions": "impression",
    "clicks": "click",
    "conversions": "conversion",
}
"""Measures of a summary that may have a quota, with the type of event that each counts."""


@dataclass(frozen=True)
class Quotas:
    """Events per advertiser and base window; what is counted once counts, invalid events too.

    A quota changes no flag and no count, so it is no part of the ruleset's version.

    Attributes:
        default: measure to quota, for all advertisers.
        advertisers: by ``advertiser_id``, measure to quota, in place of the default.
    """

    default: Mapping[str, int] = field(default_factory=dict)
    advertisers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.default) or any(self.advertisers.values())

    def of(self, measure: str) -> pl.Expr:
        """The quota of each row's advertiser, null where it has none."""
        overrides = {name: own[measure] for name, own in self.advertisers.items() if measure in own}
        default = pl.lit(self.default.get(measure), pl.Int64)
        if not overrides:
            return default
        return pl.col("advertiser_id").replace_strict(
            overrides, default=default, return_dtype=pl.Int64
        )

    def exceeded(self, summaries: pl.DataFrame) -> pl.DataFrame:
        """Quotas that the summaries of whole base windows exceed.

        With more events of a window a count never falls, so a quota that was exceeded stays so.

        Args:
            summaries: as :func:`adtally.io.schema.summary_schema`, with all rows of an advertiser.

        Returns:
            ``advertiser_id``, ``window_start``, ``window_end``, ``version``, ``measure``,
            ``count``, ``threshold``.
        """
        keys = ["advertiser_id", "window_start", "window_end"]
        counts = summaries.group_by(keys).agg(
            pl.max("version"), *(pl.sum(measure) for measure in QUOTA_MEASURES)
        )
        found = [
            counts.select(
                *keys,
                "version",
                pl.lit(measure).alias("measure"),
                pl.col(measure).alias("count"),
                self.of(measure).alias("threshold"),
            ).filter(pl.col("count") > pl.col("threshold"))
            for measure in QUOTA_MEASURES
        ]
        return pl.concat(found).sort("window_start", "advertiser_id", "measure")


def check_quota(value: int) -> None:
    """Refuse a quota that nobody could keep, or that no number holds.

    Raises:
        RuleError: it is not from 1 to ``MOST``.
    """
    if not 1 <= value <= MOST:
        raise RuleError(
            f"a quota of {value} cannot be kept to; give a whole number of events per base window, "
            f"from 1 to {MOST}"
        )
