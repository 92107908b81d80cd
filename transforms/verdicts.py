"""Verdicts of rules that look back: a pure function of the events of whole history windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms.counted import ALLOWED_EVENT, BROKEN, CLICK, COUNTS, prepared
from adtally.transforms.overflow import fold
from adtally.transforms.rules.base import GIVT
from adtally.transforms.rules.history import History
from adtally.transforms.slices import HistoryCut
from adtally.transforms.tally import TallySpec
from adtally.transforms.windows import (
    GENERATION_BITS,
    Ranges,
    exact_sum,
    limited_sums,
    utc,
    window_columns,
    within,
)


@dataclass(frozen=True)
class VerdictSpec:
    """What to judge.

    Attributes:
        tally: how the summaries are made that verdicts adjust.
        cut: history windows.
        ranges: what was tallied, empty for all; history windows that these cut are left out.
        keep_empty: give a row for every advertiser and history window, because an earlier pane,
            or a run before, may have given one with flags.
    """

    tally: TallySpec
    cut: HistoryCut
    ranges: Ranges = ()
    keep_empty: bool = False


_WINDOW = ["advertiser_id", "history"]


def judge_history(
    slices: Sequence[pa.Table], context: Sequence[pa.Table], spec: VerdictSpec
) -> pa.Table:
    """What rules find in whole history windows of some advertisers (``schema.verdict_schema``).

    The result depends on the set of events and nothing else. ``version`` is the generation above
    the events of the window and those known from before, so a newer state has a higher one.

    Args:
        slices: events to be judged.
        context: events known from before.
        spec: how.
    """
    target = schema.verdict_schema(spec.tally.dimensions)
    if not slices:
        return target.empty_table()
    seen = _events(slices, context, spec)
    judgeable = seen.filter(pl.col("counted") & ~ALLOWED_EVENT)
    flags, rows = spec.tally.ruleset.judge_history(History(judgeable, seen, spec.cut.window_ms))
    if not rows.height and not spec.keep_empty:
        return target.empty_table()
    windows = _windows(seen, spec)
    adjusted = _adjusted(_placed(_added(judgeable, rows, spec), seen, spec), spec)
    return _table(windows, flags, adjusted, spec).select(target.names).cast(target)


def _events(
    slices: Sequence[pa.Table], context: Sequence[pa.Table], spec: VerdictSpec
) -> pl.DataFrame:
    """All events, with their ``history`` window and whether they are to be ``judged``."""
    tables = [_marked(table, True) for table in slices]
    tables += [_marked(table, False) for table in context]
    events = prepared(tables, spec.tally.window_ms, ["advertiser_id"])
    start = spec.cut.start(pl.col("occurred_at"))
    judged = pl.col("judged")
    if spec.ranges:
        judged &= within(start, start + spec.cut.window_ms, spec.ranges)
    return events.with_columns(start.alias("history"), judged.alias("judged"))


def _marked(table: pa.Table, judged: bool) -> pa.Table:
    column = pa.repeat(pa.scalar(judged), table.num_rows)
    return table.replace_schema_metadata(None).append_column("judged", column)


def _keys(spec: VerdictSpec) -> list[str]:
    return ["advertiser_id", *spec.tally.dimensions, "currency", "window"]


def _added(events: pl.DataFrame, rows: pl.DataFrame, spec: VerdictSpec) -> pl.DataFrame:
    """Events that these rules call invalid and the summaries do not; ``general`` where GIVT."""
    classes = rows.group_by("row").agg((pl.col("ivt_class") == GIVT).any().alias("general"))
    hit = events.filter(pl.col("row").is_in(rows["row"].implode())).join(classes, on="row")
    if not hit.height:
        return hit
    windows = hit.select("advertiser_id", "window").unique()
    clicks = events.filter(pl.col("judged") & (pl.col("event_type") == CLICK))
    _, invalid = spec.tally.ruleset.judge_clicks(
        clicks.join(windows, on=["advertiser_id", "window"], how="semi")
    )
    return hit.filter(~BROKEN & ~pl.col("row").is_in(invalid.implode()))


def _placed(hit: pl.DataFrame, seen: pl.DataFrame, spec: VerdictSpec) -> pl.DataFrame:
    """Events with the dimensions that their rows of the summaries have."""
    windows = hit.select("advertiser_id", "window").unique()
    own = seen.filter("judged").join(windows, on=["advertiser_id", "window"], how="semi")
    placed, folded = fold(own, spec.tally.dimensions, spec.tally.max_rows)
    if not folded.height:
        return hit
    return hit.drop(spec.tally.dimensions).join(
        placed.select("row", *spec.tally.dimensions), on="row", how="left"
    )


def _adjusted(hit: pl.DataFrame, spec: VerdictSpec) -> pl.DataFrame:
    """What the summaries do not count yet, per row of theirs."""
    general = pl.col("general")
    sums = hit.group_by(*_keys(spec), "history").agg(
        measure
        for prefix, which in (("givt_", general), ("sivt_", ~general))
        for measure in (
            *(
                ((pl.col("event_type") == code) & which).sum().cast(pl.Int64).alias(prefix + name)
                for code, name in enumerate(COUNTS)
            ),
            exact_sum(pl.col("cost_micros") * which).alias(f"{prefix}cost_micros"),
        )
    )
    return limited_sums(sums, [name for name in schema.ADJUSTED if name.endswith("_micros")])


def _windows(seen: pl.DataFrame, spec: VerdictSpec) -> pl.DataFrame:
    """(advertiser, history window) to be judged, with ``version``."""
    cut = spec.cut
    own = seen.lazy().filter("judged").group_by(_WINDOW).agg(pl.len().alias("events"))
    knows = cut.knows(pl.col("occurred_at"), pl.col("event_type"), spec.tally.window_ms)
    after = (pl.col("history") + cut.window_ms).alias("history")
    before = (
        seen.lazy().filter(knows).group_by("advertiser_id", after).agg(pl.len().alias("context"))
    )
    count = (pl.col("events") + pl.col("context").fill_null(0)).cast(pl.Int64)
    generation = spec.tally.generation << GENERATION_BITS
    return (
        own.join(before, on=_WINDOW, how="left")
        .select(*_WINDOW, (count + generation).alias("version"))
        .with_columns(pl.col("advertiser_id").cast(pl.String))
        .collect()
    )


def _table(
    windows: pl.DataFrame, flags: pl.DataFrame, adjusted: pl.DataFrame, spec: VerdictSpec
) -> pa.Table:
    tally, cut = spec.tally, spec.cut
    fields = [field.name for field in schema.FLAG_TYPE]
    flag = pl.struct(utc(pl.col("window")).alias("flagged_at"), *fields)
    order = ["window", "rule", "subject_type", "subject"]
    of_window = (
        flags.with_columns(history=cut.start(pl.col("window")))
        .group_by(_WINDOW)
        .agg(flag.sort_by(order).alias("flags"))
    )
    texts = [pl.col(name).cast(pl.String) for name in _keys(spec)[1:-1]]
    at = utc(pl.col("window")).alias("adjusted_at")
    adjustment = pl.struct(at, *texts, *schema.ADJUSTED)
    added = adjusted.group_by(pl.col("advertiser_id").cast(pl.String), "history").agg(
        adjustment.sort_by(_keys(spec)[1:]).alias("adjustments")
    )
    joined = windows.lazy()
    for lists, name in ((of_window, "flags"), (added, "adjustments")):
        joined = joined.join(lists.lazy(), on=_WINDOW, how="left").with_columns(
            pl.col(name).fill_null(pl.lit([], lists.schema[name]))
        )
    if not spec.keep_empty:
        joined = joined.filter(pl.col("flags").list.len() > 0)
    frame = (
        joined.sort(_WINDOW[::-1])
        .rename({"history": "window"})
        .with_columns(
            *window_columns(cut.window_ms, tally.allowed_lateness_ms),
            pl.lit(tally.generation, pl.Int64).alias("generation"),
            pl.lit(tally.ruleset.version).alias("ruleset_version"),
        )
        .collect()
    )
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
