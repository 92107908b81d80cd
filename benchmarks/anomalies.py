"""``python -m benchmarks.anomalies``: our comparison beside the detectors of Beam's ``ml.anomaly``.

Series of clicks per minute with a daily curve and chance, with anomalies that are known. Each
method sees the same series; a detector of Beam scores a value and then learns it. Prints tables for
docs/decisions. Detection is measured with the detectors called directly, their cost through Beam's
own transform as well. Ours is shown with the season of the day too, which it knows from seven days
before; a second table has windows of an hour, where the season matters most.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.ml.anomaly.detectors.iqr import IQR
from apache_beam.ml.anomaly.detectors.robust_zscore import RobustZScore
from apache_beam.ml.anomaly.detectors.zscore import ZScore
from apache_beam.ml.anomaly.thresholds import FixedThreshold
from apache_beam.ml.anomaly.transforms import AnomalyDetection
from apache_beam.options.pipeline_options import PipelineOptions

from adtally.runners.direct import direct_runner
from adtally.transforms.rules.anomalies import VolumeAnomaly
from adtally.transforms.rules.season import Season, profile_of, read_season
from adtally.transforms.rules.series import ANOMALY, Scores, Series

MINUTES = 600
FIRST = 120
"""Anomalies begin after this; what is flagged before is not counted."""
SERIES = 40
"""Of each size and kind."""
SIZES = (60, 600)
"""Clicks per minute."""
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
PIPELINE_SERIES = 20
BEAM: dict[str, Callable[[], Any]] = {
    "beam ZScore": lambda: ZScore(threshold_criterion=FixedThreshold(3.5)),
    "beam RobustZScore": lambda: RobustZScore(threshold_criterion=FixedThreshold(3.5)),
    "beam IQR": lambda: IQR(),
}


def spike(values: np.ndarray, at: int) -> int:
    """Twice the clicks for three windows."""
    values[at : at + 3] *= 2
    return 3


def drop(values: np.ndarray, at: int) -> int:
    """A third of them for five."""
    values[at : at + 5] *= 1 / 3
    return 5


def shift(values: np.ndarray, at: int) -> int:
    """Half as much again, for good; the first ten minutes are the anomaly."""
    values[at:] *= 1.5
    return 10


def drift(values: np.ndarray, at: int) -> int:
    """Doubled over two hours."""
    values[at : at + 120] *= np.linspace(1, 2, 120)
    values[at + 120 :] *= 2
    return 120


def ring(values: np.ndarray, at: int) -> int:
    """Robots: 60 clicks a minute for ten minutes, whatever the size."""
    values[at : at + 10] += 60
    return 10


def nothing(values: np.ndarray, at: int) -> int:
    """No anomaly: what is flagged is flagged wrongly."""
    return 0


KINDS = (nothing, spike, drop, shift, drift, ring)


@dataclass(frozen=True)
class Scale:
    """Windows of a length: so many in a series, anomalies from the ``first`` on."""

    step_ms: int
    windows: int
    first: int
    kinds: tuple[Any, ...]
    level: float
    """Standard deviation of a day's level, as a share."""


MINUTELY = Scale(MINUTE_MS, MINUTES, FIRST, KINDS, 0.0)
HOURLY = Scale(HOUR_MS, 14 * 24, 5 * 24, KINDS[:3], 0.05)
HISTORY_DAYS = 7
"""What a profile is made of."""


def main() -> None:
    rng = np.random.default_rng(1)
    costs = table(rng, MINUTELY)
    print("\nWindows of an hour, the level of each day 5% up or down:\n")
    table(rng, HOURLY)
    made = [(None, 0, *series(rng, nothing, 60, MINUTELY)[:3]) for _ in range(PIPELINE_SERIES)]
    print("\n| method | µs a value | µs a value in a pipeline |\n|---|--:|--:|")
    for name, cost in costs.items():
        through = f"{1e6 * in_pipeline(BEAM[name](), made):,.0f}" if name in BEAM else "-"
        print(f"| {name} | {1e6 * cost:,.1f} | {through} |")


def table(rng: np.random.Generator, scale: Scale) -> dict[str, float]:
    """Print what each method finds; returns the CPU seconds for each value."""
    made, hours = [], []
    for kind in scale.kinds:
        for size in SIZES:
            for _ in range(SERIES):
                at, length, values, before = series(rng, kind, size, scale)
                hours.append(before.with_columns(advertiser_id=pl.lit(f"a{len(made):05d}")))
                made.append((kind, size, at, length, values))
    all_values = [values for *_, values in made]
    found, costs = {}, {}
    for name, season in (("ours", Season()), ("ours, season", season_of(pl.concat(hours)))):
        found[name], costs[name] = ours(all_values, scale, season)
    for name, detector in BEAM.items():
        started = time.process_time()
        found[name] = [direct(detector(), values) for values in all_values]
        costs[name] = (time.process_time() - started) / (len(made) * scale.windows)
    print("| anomaly | per minute | " + " | ".join(found) + " |")
    print("|---|--:|" + "--:|" * len(found))
    for kind in scale.kinds:
        for size in SIZES:
            rows = [n for n, one in enumerate(made) if one[0] is kind and one[1] == size]
            cells = [
                summary(kind, [(made[n], flags[n]) for n in rows], scale)
                for flags in found.values()
            ]
            print(f"| {kind.__name__} | {size} | " + " | ".join(cells) + " |")
    return costs


def series(
    rng: np.random.Generator, kind: Any, size: int, scale: Scale
) -> tuple[int, int, np.ndarray, pl.DataFrame]:
    """Where the anomaly begins, how long it is, the clicks of each window, the days before."""
    phase = rng.random()

    def curve(days: np.ndarray) -> np.ndarray:
        return 1 + 0.4 * np.sin(2 * np.pi * (days + phase))

    minutes = scale.step_ms // MINUTE_MS
    days = (np.arange(scale.windows) + 0.5) * minutes / 1440
    level = rng.lognormal(0, scale.level, int(days[-1]) + 1)[days.astype(int)]
    rates = size * minutes * curve(days) * level
    room = max(length for length in (200, 24) if length < scale.windows - scale.first)
    at = int(rng.integers(scale.first, scale.windows - room))
    length = kind(rates, at)
    hours = np.arange(HISTORY_DAYS * 24)
    before = pl.DataFrame(
        {
            "currency": "EUR",
            "hour_start": hours * HOUR_MS,
            "clicks": rng.poisson(size * 60 * curve((hours + 0.5) / 24)),
        }
    ).with_columns(pl.lit(0).alias(name) for name in ("impressions", "conversions", "cost_micros"))
    return at, length, rng.poisson(rates), before


def season_of(hours: pl.DataFrame) -> Season:
    """The profile of the days before."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        profile_of(hours).write_parquet(file.name)
        return read_season(file.name)


def ours(
    all_values: list[np.ndarray], scale: Scale, season: Season
) -> tuple[list[np.ndarray], float]:
    count = scale.windows
    frame = pl.DataFrame(
        {
            "advertiser_id": np.repeat([f"a{n:05d}" for n in range(len(all_values))], count),
            "window": np.tile(np.arange(count) * scale.step_ms, len(all_values)),
            "clicks": np.concatenate(all_values),
        }
    ).with_columns(
        *(pl.lit(0).alias(name) for name in ("impressions", "conversions", "cost_micros")),
        pl.lit("EUR").alias("currency"),
        (pl.col("window") // HOUR_MS * HOUR_MS).alias("history"),
        pl.lit(True).alias("judged"),
    )
    started = time.process_time()
    rule = VolumeAnomaly()
    verdicts = rule.judge(Series(frame, scale.step_ms, season), Scores(rule.threshold))
    cost = (time.process_time() - started) / frame.height
    clicks = verdicts.filter(pl.col("subject") == "clicks").sort("advertiser_id", "window")
    flags = (clicks["state"] == ANOMALY).to_numpy().reshape(len(all_values), count)
    return list(flags), cost


def direct(detector: Any, values: np.ndarray) -> np.ndarray:
    """What a detector of Beam flags when it is called for one value after the other."""
    flags = np.zeros(len(values), bool)
    for n, value in enumerate(values):
        row = beam.Row(value=float(value))
        score = detector.score_one(row)
        flags[n] = detector._threshold_criterion.apply(score) == 1
        detector.learn_one(row)
    return flags


def in_pipeline(detector: Any, made: list[Any]) -> float:
    """Seconds for each value through Beam's own transform, keyed, in the global window."""
    elements = [
        (f"a{n}", beam.Row(value=float(value)))
        for n, (*_, values) in enumerate(made)
        for value in values
    ]
    started = time.monotonic()
    with beam.Pipeline(direct_runner(PipelineOptions([]))) as pipeline:
        _ = pipeline | beam.Create(elements) | AnomalyDetection(detector)
    return (time.monotonic() - started) / len(elements)


def summary(kind: Any, some: list[Any], scale: Scale) -> str:
    """Found anomalies, their mean delay in windows, and false alarms a day."""
    false = windows = 0
    delays = []
    for (_, _, at, length, _), flags in some:
        inside = flags[at : at + length]
        if inside.any():
            delays.append(int(inside.argmax()))
        outside = np.concatenate([flags[scale.first : at], flags[at + max(length, 60) :]])
        if kind is nothing:
            outside = flags[scale.first :]
        false += int(outside.sum())
        windows += len(outside)
    wrong = f"{false / windows * 24 * HOUR_MS / scale.step_ms:.1f} false a day"
    if kind is nothing:
        return wrong
    delay = f"after {np.mean(delays):.1f}" if delays else "-"
    return f"{len(delays) / len(some):.0%} {delay}, {wrong}"


if __name__ == "__main__":
    main()
