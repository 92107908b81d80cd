"""The rules for series: volume, click-through rate, conversion rate, spend."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from adtally.transforms.rules.series import (
    Comparison,
    Points,
    SeriesRule,
    median,
    robust_scale,
)


@dataclass(frozen=True)
class VolumeAnomaly(SeriesRule):
    """Far more or fewer impressions, or clicks, in a base window than in those before it.

    Expected is the median of the last 60 base windows; the scale is at least the square root of it,
    as of counts that come by chance. Look-back: 60 base windows, in event time; over the summaries,
    of a stream (on-time and late panes) and in batch.

    Not enough data: fewer than 20 windows since the first of the 60 with five events or more, and
    volumes of which neither the window nor what is expected reaches the minimum.

    Weakness: a launch is an anomaly; a burst after an hour of silence is not enough data; a rise
    over hours is none; an advertiser that falls silent is seen once it has an event again within
    the history window.

    Attributes:
        threshold: robust z-score.
        minimum: events of a window.
    """

    NAME: ClassVar[str] = "sivt_volume_anomaly"
    MEASURES: ClassVar[tuple[str, ...]] = ("impressions", "clicks")
    VOLUME: ClassVar[tuple[str, ...]] = ("impressions", "clicks")
    threshold: float = 3.5
    minimum: int = 50

    def compare(self, points: Points) -> Sequence[Comparison]:
        """See :class:`adtally.transforms.rules.series.SeriesRule`."""
        return [self._of(points, name) for name in self.MEASURES]

    def _of(self, points: Points, name: str) -> Comparison:
        now = points.now[name]
        past = points.past[name]
        expected = median(past)
        chance = np.sqrt(np.maximum(expected, 1))
        scale = np.fmax(robust_scale(past - expected[:, None]), chance)
        enough = np.maximum(now, expected) >= self.minimum
        return Comparison(pl.lit(name), now, expected, scale, enough)


class _RateAnomaly(SeriesRule, abc.ABC):
    """Hits per trial, such as clicks per impression.

    Expected is the share of the last 60 windows together. The distance of each of these from it, in
    standard deviations of a binomial distribution, says how far windows scatter beyond chance.
    """

    def compare(self, points: Points) -> Sequence[Comparison]:
        """See :class:`adtally.transforms.rules.series.SeriesRule`."""
        hits, trials = self.MEASURES
        past_hits, past_trials = points.past[hits], points.past[trials]
        total = np.nansum(past_trials, axis=1)
        share = np.nansum(past_hits, axis=1) / np.maximum(total, 1)
        rare = 1 / np.maximum(total, 2)  # never 0 or 1, where chance would have no width
        share = np.clip(share, rare, 1 - rare)
        spread = np.sqrt(share * (1 - share))
        past_chance = spread[:, None] * np.sqrt(np.where(past_trials > 0, past_trials, np.nan))
        scatter = robust_scale((past_hits - share[:, None] * past_trials) / past_chance)
        now = points.now[trials]
        scale = np.fmax(scatter, 1) * spread * np.sqrt(np.maximum(now, 1))
        name = pl.lit(f"{hits} per {trials[:-1]}")
        enough = (now >= self.minimum) & (total >= self.minimum)
        return [Comparison(name, points.now[hits], share * now, scale, enough)]


@dataclass(frozen=True)
class ClickThroughAnomaly(_RateAnomaly):
    """Far more or fewer clicks per impression in a base window than in those before it.

    Look-back, and what is not enough data, as :class:`VolumeAnomaly`. ``count`` is the clicks.

    Weakness: clicks follow their impressions by seconds, so windows of less than a minute scatter.

    Attributes:
        threshold: robust z-score.
        minimum: impressions of the window.
    """

    NAME: ClassVar[str] = "sivt_ctr_anomaly"
    MEASURES: ClassVar[tuple[str, ...]] = ("clicks", "impressions")
    VOLUME: ClassVar[tuple[str, ...]] = ("impressions",)
    threshold: float = 3.5
    minimum: int = 100


@dataclass(frozen=True)
class ConversionRateAnomaly(_RateAnomaly):
    """Far more or fewer conversions per click in a base window than in those before it.

    As :class:`ClickThroughAnomaly`. Weakness: conversions follow their clicks by minutes to days,
    so a change of traffic shows as one of the rate.

    Attributes:
        threshold: robust z-score.
        minimum: clicks of the window.
    """

    NAME: ClassVar[str] = "sivt_conversion_rate_anomaly"
    MEASURES: ClassVar[tuple[str, ...]] = ("conversions", "clicks")
    VOLUME: ClassVar[tuple[str, ...]] = ("clicks",)
    threshold: float = 3.5
    minimum: int = 100


@dataclass(frozen=True)
class SpendAnomaly(SeriesRule):
    """Far more or less spent in a base window, in one currency, than in those before it.

    As :class:`VolumeAnomaly`, of ``cost_micros``; the scale is at least what chance makes of a sum
    of so many events. ``count`` and ``threshold`` are micros, the subject is the currency.

    Attributes:
        threshold: robust z-score.
        minimum: events of a window.
    """

    NAME: ClassVar[str] = "sivt_spend_anomaly"
    KEYS: ClassVar[tuple[str, ...]] = ("advertiser_id", "currency")
    MEASURES: ClassVar[tuple[str, ...]] = ("cost_micros", "impressions", "clicks")
    VOLUME: ClassVar[tuple[str, ...]] = ("impressions", "clicks")
    threshold: float = 3.5
    minimum: int = 50

    def compare(self, points: Points) -> Sequence[Comparison]:
        """See :class:`adtally.transforms.rules.series.SeriesRule`."""
        now = points.now["cost_micros"]
        past = points.past["cost_micros"]
        usual = median(points.past["impressions"] + points.past["clicks"])
        events = points.now["impressions"] + points.now["clicks"]
        expected = median(past)
        chance = expected / np.sqrt(np.maximum(usual, 1))
        scale = np.fmax(np.fmax(robust_scale(past - expected[:, None]), chance), 1)
        enough = (np.maximum(events, usual) >= self.minimum) & (expected > 0)
        return [Comparison(pl.col("currency"), now, expected, scale, enough, signed=True)]
