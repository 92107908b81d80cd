"""Invalid-traffic rules: what they see, and where their thresholds come from.

Rules label and never delete. GIVT is general invalid traffic, found by lists and routine checks
(MRC Invalid Traffic Detection and Filtration Standards). A ruleset is fixed for a run and its
version is stamped on every flag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

CLICK_RATE_IP: Final = "givt_click_rate_ip"
EVIDENCE_EVENTS: Final = 5
"""Event ids kept as evidence of a flag: enough to look one up, few enough for 30,000 flags."""


@dataclass(frozen=True)
class ClickRateIp:
    """More clicks from one address on one advertiser within a base window than people make.

    Weakness: many people share an address (offices, mobile carriers behind NAT), so the
    threshold is generous; a bot that spreads over addresses passes.

    Attributes:
        threshold: clicks per ip, advertiser and base window that are still valid. No figure is
            agreed on: published practice runs from 3 an hour to 10 a day per ip, which a busy
            NAT exceeds; 30 within a minute is one every two seconds.
        overrides: advertiser_id to its own threshold.
    """

    threshold: int = 30
    overrides: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in [("default", self.threshold), *self.overrides.items()]:
            if value < 1:
                raise ValueError(
                    f"{CLICK_RATE_IP}: threshold {value} ({name}) would flag every click; "
                    f"give a whole number of at least 1."
                )

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.threshold, dict(self.overrides)))


@dataclass(frozen=True)
class Ruleset:
    """The rules of a run."""

    click_rate_ip: ClickRateIp = ClickRateIp()

    @property
    def version(self) -> str:
        """Changes with any threshold: a name for what was judged by what."""
        content = {
            CLICK_RATE_IP: {
                "threshold": self.click_rate_ip.threshold,
                "overrides": dict(sorted(self.click_rate_ip.overrides.items())),
            }
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"1-{digest[:12]}"


def click_rate_ip(clicks: pl.DataFrame, rule: ClickRateIp) -> pl.DataFrame:
    """Subjects that break the rule.

    Args:
        clicks: counted clicks with ``advertiser_id``, ``window`` (ms), ``ip``, ``event_id``.
        rule: thresholds.

    Returns:
        One row per (advertiser_id, window, ip) over its threshold: ``count``, ``threshold``, and
        ``evidence``, the least event ids. Clicks without an address are not judged.
    """
    keys = ["advertiser_id", "window", "ip"]
    counts = clicks.lazy().filter(pl.col("ip").is_not_null()).group_by(keys).len("count").collect()
    lowest = min([rule.threshold, *rule.overrides.values()])
    suspects = counts.filter(pl.col("count") > lowest).with_columns(
        pl.col("count").cast(pl.Int64),
        pl.col("advertiser_id")
        .cast(pl.String)
        .replace_strict(dict(rule.overrides), default=rule.threshold, return_dtype=pl.Int64)
        .alias("threshold"),
    )
    flagged = suspects.filter(pl.col("count") > pl.col("threshold"))
    if not flagged.height:  # most panes: a join of nothing costs half a millisecond
        return flagged.with_columns(pl.lit([], pl.List(pl.String)).alias("evidence"))
    evidence = (
        clicks.join(flagged.select(keys), on=keys, how="semi")
        .group_by(keys)
        .agg(pl.col("event_id").sort().head(EVIDENCE_EVENTS).alias("evidence"))
    )
    return flagged.join(evidence, on=keys, how="left").sort(keys)
