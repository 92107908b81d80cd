"""Series of an advertiser's base windows, and how far one window lies from those before it.

The measure is the robust z-score: the distance from what is expected, over the scale of such
distances (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993, who take more than 3.5 for
an outlier). The scale is 1.4826 times the median absolute deviation, and never below what chance
alone makes of counts: with a few events, or with none in most windows, anything would be an outlier
otherwise.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import polars as pl

from adtally.transforms.rules.base import FLAG_COLUMNS, SIVT, RuleError
from adtally.transforms.rules.season import RARE, Season, at_times

PAST_WINDOWS: Final = 60
"""Base windows that a window is compared with."""

ENOUGH_WINDOWS: Final = 20
"""Fewer of them since the first that is there are not enough data."""

FEW_EVENTS: Final = 5
"""A window with fewer events of an advertiser counts as one without any: it saves sending nearly
all of the rows of small advertisers, who are not judged."""

MOST_SCORE: Final = 1_000_000
"""Thresholds above it are a mistake: no count that fits is so far from another."""

NORMAL: Final = "normal"
ANOMALY: Final = "anomaly"
NOT_ENOUGH: Final = "not_enough_data"

_CONSISTENT: Final = 1.4826
"""Makes the median absolute deviation of normal values their standard deviation."""

_MOST: Final = float(2**63 - 1024)
"""The largest of 64 bits that is a float."""

_AT_A_TIME: Final = 50_000
"""Windows that are compared at a time: 24 MB for each measure."""

VERDICT_COLUMNS: Final = pl.Schema(
    {**FLAG_COLUMNS, "state": pl.String(), "expected": pl.Float64(), "score": pl.Float64()}
)


@dataclass(frozen=True)
class Scores:
    """The score beyond which a window is an anomaly, and that of single advertisers."""

    default: float
    overrides: Mapping[str, float] = field(default_factory=dict)

    def of(self, advertiser: pl.Expr) -> pl.Expr:
        """The threshold of each row's advertiser."""
        if not self.overrides:
            return pl.lit(self.default, pl.Float64)
        return advertiser.cast(pl.String).replace_strict(
            dict(self.overrides), default=self.default, return_dtype=pl.Float64
        )


@dataclass(frozen=True)
class Series:
    """Sums of base windows, of some advertisers.

    Attributes:
        rows: ``advertiser_id``, ``currency``, ``window`` (ms), ``history`` (start of the history
            window, ms), ``judged`` (false for what only came before), ``impressions``, ``clicks``,
            ``conversions``, ``cost_micros``. One row per advertiser, currency and window; windows
            with fewer events than ``FEW_EVENTS`` are not there.
        window_ms: the base window.
        season: of the day, of advertisers of which it is known.
    """

    rows: pl.DataFrame
    window_ms: int
    season: Season = Season()


@dataclass(frozen=True)
class Points:
    """Windows to be judged, each with those before it.

    Attributes:
        at: the key columns and ``window``, a row per point.
        now: of each measure, the sums of the windows.
        past: of each measure, those of the ``PAST_WINDOWS`` before, the nearest last, as they would
            be at the hour of the window. NaN before the advertiser's first event there, and where
            the season says nothing.
        known: how many of these are no NaN.
    """

    at: pl.DataFrame
    now: dict[str, np.ndarray]
    past: dict[str, np.ndarray]
    known: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One quantity of each point, held against its past.

    Attributes:
        subject: the quantity's name, an expression over ``Points.at``.
        value: what the windows have.
        expected: what they should have.
        scale: how far values scatter around that; above 0.
        enough: whether there is the volume to judge them.
        signed: whether values may lie below 0, as refunds do.
    """

    subject: pl.Expr
    value: np.ndarray
    expected: np.ndarray
    scale: np.ndarray
    enough: np.ndarray
    signed: bool = False


class SeriesRule(abc.ABC):
    """Judges the windows of an advertiser's series by those before them.

    A frozen dataclass, whose fields are its settings.

    Attributes:
        NAME: what flags carry.
        IVT_CLASS: ``GIVT`` or ``SIVT``.
        KEYS: what a series is of.
        MEASURES: columns that it reads.
        VOLUME: columns whose sum has to reach the minimum.
        threshold: robust z-score beyond which a window is an anomaly.
        minimum: volume below which nothing is judged, in the rule's own unit.
    """

    NAME: ClassVar[str]
    IVT_CLASS: ClassVar[str] = SIVT
    KEYS: ClassVar[tuple[str, ...]] = ("advertiser_id",)
    MEASURES: ClassVar[tuple[str, ...]]
    VOLUME: ClassVar[tuple[str, ...]]
    threshold: float
    minimum: int

    def __post_init__(self) -> None:
        if self.threshold > MOST_SCORE:
            raise RuleError(
                f"{self.NAME}: threshold {self.threshold} would flag no window; give a robust "
                f"z-score of at most {MOST_SCORE:,}, or switch the rule off."
            )
        if not self.threshold > 0:
            raise RuleError(
                f"{self.NAME}: threshold {self.threshold} would flag every window; give a robust "
                f"z-score above 0, such as 3.5."
            )
        if self.minimum < FEW_EVENTS:
            raise RuleError(
                f"{self.NAME}: minimum {self.minimum} is too little to judge; give at least "
                f"{FEW_EVENTS}."
            )

    def judge(self, series: Series, limits: Scores) -> pl.DataFrame:
        """Verdicts (``VERDICT_COLUMNS``) on all windows that are ``judged``.

        Windows between an advertiser's first and its last one in a history window that are not
        there had no events. ``count`` is the window's value, ``threshold`` the nearest one that
        would be an anomaly.
        """
        found = [pl.DataFrame(schema=VERDICT_COLUMNS)]
        for points in points_of(series, self):
            for comparison in self.compare(points):
                found.append(_verdicts(points, comparison, limits))
        return pl.concat(found)

    @abc.abstractmethod
    def compare(self, points: Points) -> Sequence[Comparison]:
        """Hold windows against those before them."""


def _verdicts(points: Points, comparison: Comparison, limits: Scores) -> pl.DataFrame:
    value, expected, scale = comparison.value, comparison.expected, comparison.scale
    frame = points.at.with_columns(
        comparison.subject.cast(pl.String).alias("subject"),
        count=pl.Series(value),
        expected=pl.Series(expected),
        scale=pl.Series(scale),
        score=pl.Series((value - expected) / scale),
        enough=pl.Series(comparison.enough & (points.known >= ENOUGH_WINDOWS)),
        most=limits.of(pl.col("advertiser_id")),
    )
    bound = pl.col("expected") + pl.col("score").sign() * pl.col("most") * pl.col("scale")
    upper = (bound.floor() + 1).clip(-_MOST, _MOST)
    lower = (bound.ceil() - 1).clip(-_MOST if comparison.signed else 0, _MOST)
    anomaly = pl.col("score").abs() > pl.col("most")
    named = frame.with_columns(
        pl.lit("series").alias("subject_type"),
        pl.when(pl.col("score") > 0).then(upper).otherwise(lower).alias("threshold"),
        pl.lit([], pl.List(pl.String)).alias("evidence"),
        pl.when(~pl.col("enough"))
        .then(pl.lit(NOT_ENOUGH))
        .when(anomaly)
        .then(pl.lit(ANOMALY))
        .otherwise(pl.lit(NORMAL))
        .alias("state"),
    )
    return named.select(VERDICT_COLUMNS.names()).cast(VERDICT_COLUMNS)


def robust_scale(deviations: np.ndarray) -> np.ndarray:
    """1.4826 times the median absolute deviation of rows, of deviations as they are."""
    return _CONSISTENT * median(np.abs(deviations))


def median(values: np.ndarray) -> np.ndarray:
    """Of rows, of what is no NaN; 0 where nothing is. ``np.nanmedian`` takes 18 times as long."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    row = np.arange(len(values))
    below = ordered[row, np.maximum(count - 1, 0) // 2]
    above = ordered[row, np.minimum(count // 2, values.shape[1] - 1)]
    return np.where(count > 0, (below + above) / 2, 0.0)


def points_of(series: Series, rule: SeriesRule) -> list[Points]:
    """The windows to be judged, in portions, each with its past; of series with enough volume."""
    keys = rule.KEYS
    own = [*keys, "window"]
    sums = series.rows.group_by(*own, "history").agg(
        pl.col(*dict.fromkeys([*rule.MEASURES, *rule.VOLUME])).sum().cast(pl.Int64),
        pl.col("judged").any(),
    )
    most = pl.sum_horizontal(rule.VOLUME).max().over(keys)
    sums = sums.filter(most >= rule.minimum)
    if not sums["judged"].any():
        return []
    step = series.window_ms
    last = pl.col("window").filter("judged").max()
    spans = (
        sums.filter(pl.col("judged").any().over(keys))
        .group_by(*keys, "history")
        .agg(pl.col("judged").any(), last.alias("last"))
        .filter("judged")
    )
    judged = (
        spans.with_columns(pl.int_ranges("history", pl.col("last") + step, step).alias("window"))
        .explode("window")
        .sort(own)
    )
    found = []
    for start in range(0, judged.height, _AT_A_TIME):
        part = judged[start : start + _AT_A_TIME]
        found.append(_with_past(part, sums, rule, step, series.season))
    return found


def _with_past(
    judged: pl.DataFrame, sums: pl.DataFrame, rule: SeriesRule, step: int, season: Season
) -> Points:
    """Look up the sums of each judged window and of those before it."""
    groups = judged.select(rule.KEYS).unique(maintain_order=True).with_row_index("series")
    mine = sums.join(groups, on=rule.KEYS)
    origin, newest = pl.concat([mine["window"], judged["window"]]).sort().gather([0, -1])
    slots = (int(newest) - int(origin)) // step + 1
    row = mine["series"].to_numpy()
    slot = ((mine["window"] - origin) // step).to_numpy() + PAST_WINDOWS
    shape = (groups.height, slots + PAST_WINDOWS)
    known = np.zeros(shape, bool)
    known[row, slot] = True
    points = judged.join(groups, on=rule.KEYS, maintain_order="left")
    at_row = points["series"].to_numpy()
    at_slot = ((points["window"] - origin) // step).to_numpy() + PAST_WINDOWS
    before = at_slot[:, None] + np.arange(-PAST_WINDOWS, 0)
    seen = known[at_row[:, None], before]
    begun = np.logical_or.accumulate(seen, axis=1)
    times = points["window"].to_numpy()[:, None] + step // 2 + step * np.arange(-PAST_WINDOWS, 1)
    now, past = {}, {}
    for name in rule.MEASURES:
        dense = np.zeros(shape, np.int64)
        dense[row, slot] = mine[name].to_numpy()
        now[name] = dense[at_row, at_slot]
        past[name] = np.where(begun, dense[at_row[:, None], before], np.nan)
        if season.fingerprint:
            factors = at_times(season.of(groups, name)[at_row], times)
            told = factors[:, :-1] >= RARE
            ratio = np.divide(
                factors[:, -1:], factors[:, :-1], where=told, out=np.full(told.shape, np.nan)
            )
            past[name] *= ratio
    known = np.isfinite([past[name] for name in rule.MEASURES]).all(axis=0).sum(axis=1)
    return Points(points.select(*rule.KEYS, "window"), now, past, known)
