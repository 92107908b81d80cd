"""``python -m benchmarks.anomalies``: our comparison beside the detectors of Beam's ``ml.anomaly``.

Series of clicks per minute with a daily curve and chance, with anomalies that are known. Each
method sees the same series; a detector of Beam scores a value and then learns it. Prints tables for
docs/decisions. Detection is measured with the detectors called directly, their cost through Beam's
own transform as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
    """Twice the clicks for three minutes."""
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


def main() -> None:
    rng = np.random.default_rng(1)
    made = [
        (kind, size, *series(rng, kind, size))
        for kind in KINDS
        for size in SIZES
        for _ in range(SERIES)
    ]
    flagged = {"ours": ours([values for *_, values in made])}
    costs = {"ours": flagged["ours"][1]}
    found = {"ours": flagged["ours"][0]}
    for name, detector in BEAM.items():
        started = time.process_time()
        found[name] = [direct(detector(), values) for *_, values in made]
        costs[name] = (time.process_time() - started) / (len(made) * MINUTES)
    print("| anomaly | per minute | " + " | ".join(found) + " |")
    print("|---|--:|" + "--:|" * len(found))
    for kind in KINDS:
        for size in SIZES:
            rows = [n for n, one in enumerate(made) if one[0] is kind and one[1] == size]
            cells = [summary(kind, [(made[n], flags[n]) for n in rows]) for flags in found.values()]
            print(f"| {kind.__name__} | {size} | " + " | ".join(cells) + " |")
    print("\n| method | µs a value | µs a value in a pipeline |\n|---|--:|--:|")
    for name, cost in costs.items():
        through = f"{1e6 * in_pipeline(BEAM[name](), made):,.0f}" if name in BEAM else "-"
        print(f"| {name} | {1e6 * cost:,.1f} | {through} |")


def series(rng: np.random.Generator, kind: Any, size: int) -> tuple[int, int, np.ndarray]:
    """Where the anomaly begins, how long it is, and the clicks of each minute."""
    daily = 1 + 0.4 * np.sin(2 * np.pi * (np.arange(MINUTES) / 1440 + rng.random()))
    rates = size * daily
    at = int(rng.integers(FIRST, MINUTES - 200))
    length = kind(rates, at)
    return at, length, rng.poisson(rates)


def ours(all_values: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    frame = pl.DataFrame(
        {
            "advertiser_id": np.repeat([f"a{n:05d}" for n in range(len(all_values))], MINUTES),
            "window": np.tile(np.arange(MINUTES) * MINUTE_MS, len(all_values)),
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
    verdicts = rule.judge(Series(frame, MINUTE_MS), Scores(rule.threshold))
    cost = (time.process_time() - started) / frame.height
    clicks = verdicts.filter(pl.col("subject") == "clicks").sort("advertiser_id", "window")
    flags = (clicks["state"] == ANOMALY).to_numpy().reshape(len(all_values), MINUTES)
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
        for n, (*_, values) in enumerate(made[:PIPELINE_SERIES])
        for value in values
    ]
    started = time.monotonic()
    with beam.Pipeline(direct_runner(PipelineOptions([]))) as pipeline:
        _ = pipeline | beam.Create(elements) | AnomalyDetection(detector)
    return (time.monotonic() - started) / len(elements)


def summary(kind: Any, some: list[Any]) -> str:
    """Found anomalies, their mean delay in minutes, and false alarms a day."""
    false = minutes = 0
    delays = []
    for (_, _, at, length, _), flags in some:
        inside = flags[at : at + length]
        if inside.any():
            delays.append(int(inside.argmax()))
        outside = np.concatenate([flags[FIRST:at], flags[at + max(length, 60) :]])
        if kind is nothing:
            outside = flags[FIRST:]
        false += int(outside.sum())
        minutes += len(outside)
    wrong = f"{false / minutes * 1440:.1f} false a day"
    if kind is nothing:
        return wrong
    delay = f"after {np.mean(delays):.1f}" if delays else "-"
    return f"{len(delays) / len(some):.0%} {delay}, {wrong}"


if __name__ == "__main__":
    main()
