"""Anomalies of series: a pure function of the sums of base windows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms.rules.series import FEW_EVENTS, PAST_WINDOWS, Series
from adtally.transforms.verdicts import VerdictSpec
from adtally.transforms.windows import (
    GENERATION_BITS,
    SEEN_MASK,
    exact_sum,
    utc,
    window_columns,
    within,
)

_MOST = (1 << 63) - 1
"""Where 64 bits end; a sum beyond it is an anomaly, whatever it is."""

_SUMS = ("impressions", "clicks", "conversions", "cost_micros")


def past_ms(window_ms: int) -> int:
    """How far before a base window the windows lie that it is compared with."""
    return PAST_WINDOWS * window_ms


def series_of(summaries: pa.Table) -> pl.DataFrame:
    """Sums of base windows, over dimensions, of those with events enough to matter.

    Returns:
        ``advertiser_id``, ``currency``, ``window`` (ms), impressions, clicks, conversions,
        ``cost_micros``, and ``seen``, the events that the window had seen.
    """
    columns = ["advertiser_id", "currency", "window_start", *_SUMS, "version"]
    rows = pl.DataFrame(pl.from_arrow(summaries.select(columns).replace_schema_metadata(None)))
    seen = (pl.col("version") & SEEN_MASK).alias("seen")
    return (
        rows.lazy()
        .filter((pl.col("version") & SEEN_MASK) >= FEW_EVENTS)
        .group_by(
            "advertiser_id", "currency", pl.col("window_start").dt.epoch("ms").alias("window"), seen
        )
        .agg(exact_sum(pl.col(*_SUMS)))
        .with_columns(pl.col(*_SUMS).clip(-_MOST, _MOST).cast(pl.Int64))
        .collect()
    )


def judge_series(tables: Sequence[pa.Table], begin_ms: int, spec: VerdictSpec) -> pa.Table:
    """Anomalies in whole history windows of some advertisers (``schema.ANOMALY_SCHEMA``).

    The result depends on the set of sums and nothing else: of a window that comes again the one
    that has seen most events stands. ``version`` is the generation above the events that the
    windows, and those that they are compared with, had seen.

    Args:
        tables: see :func:`series_of`.
        begin_ms: windows before it only are what others are compared with.
        spec: how; its ranges as for verdicts.
    """
    rows = pl.concat([pl.DataFrame(pl.from_arrow(table)) for table in tables])
    window = pl.col("window")
    latest = pl.col("seen") == pl.col("seen").max().over("advertiser_id", "window")
    start = spec.cut.start(window)
    judged = window >= begin_ms
    if spec.ranges:
        judged &= within(start, start + spec.cut.window_ms, spec.ranges)
    rows = (
        rows.filter(latest)
        .unique(["advertiser_id", "currency", "window"])
        .with_columns(start.alias("history"), judged.alias("judged"))
    )
    flags = spec.tally.ruleset.judge_series(Series(rows, spec.tally.window_ms))
    return _table(_windows(rows, spec), flags, spec)


def _windows(rows: pl.DataFrame, spec: VerdictSpec) -> pl.DataFrame:
    """(advertiser, history window) to be judged, with ``version``."""
    cut = spec.cut
    seen = rows.lazy().unique(["advertiser_id", "window"])
    judged = seen.filter("judged").select("advertiser_id", "history").unique()
    known = judged.join(seen.select("advertiser_id", "window", "seen"), on="advertiser_id").filter(
        pl.col("window") >= pl.col("history") - past_ms(spec.tally.window_ms),
        pl.col("window") < pl.col("history") + cut.window_ms,
    )
    generation = spec.tally.generation << GENERATION_BITS
    return (
        known.group_by("advertiser_id", "history")
        .agg((pl.col("seen").sum() + generation).alias("version"))
        .collect()
    )


def _table(windows: pl.DataFrame, flags: pl.DataFrame, spec: VerdictSpec) -> pa.Table:
    target = schema.ANOMALY_SCHEMA
    fields = [field.name for field in schema.FLAG_TYPE]
    flag = pl.struct(utc(pl.col("window")).alias("flagged_at"), *fields)
    lists = (
        flags.with_columns(history=spec.cut.start(pl.col("window")))
        .group_by("advertiser_id", "history")
        .agg(flag.sort_by("window", "rule", "subject").alias("flags"))
    )
    joined = windows.join(
        lists, on=["advertiser_id", "history"], how="left" if spec.keep_empty else "inner"
    )
    frame = (
        joined.with_columns(pl.col("flags").fill_null(pl.lit([], lists.schema["flags"])))
        .sort("history", "advertiser_id")
        .rename({"history": "window"})
        .with_columns(
            *window_columns(spec.cut.window_ms, spec.tally.allowed_lateness_ms),
            pl.lit(spec.tally.generation, pl.Int64).alias("generation"),
            pl.lit(spec.tally.ruleset.version).alias("ruleset_version"),
        )
    )
    return frame.select(target.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(target)
