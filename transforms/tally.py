"""The tally: events of one shard to summaries and flags, one pure function of a set of events.

The result depends on the set of events and nothing else: not on their order, on how they were
cut into slices, on the pane or the runner, or on when it ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms import rules, uniques
from adtally.transforms.mapping import MONEY_FIELDS
from adtally.transforms.windows import (
    GENERATION_BITS,
    checked_sums,
    exact_sum,
    utc,
    window_columns,
)

IDENTITY: Final = ("advertiser_id", "event_type", "event_id")


@dataclass(frozen=True)
class TallySpec:
    """What to compute.

    Attributes:
        window_ms: the base window.
        allowed_lateness_ms: stamped as ``final_after``.
        dimensions: event fields that summaries are broken down by.
        generation: 0 for streaming and first backfills, allocated for corrections.
        ruleset: the invalid-traffic rules.
        uniques_k: hashes kept per row.
    """

    window_ms: int
    allowed_lateness_ms: int
    dimensions: tuple[str, ...] = ()
    generation: int = 0
    ruleset: rules.Ruleset = rules.Ruleset()
    uniques_k: int = uniques.UNIQUES_K


@dataclass(frozen=True)
class Tally:
    """Summaries (``schema.summary_schema``) and flags (``schema.FLAG_SCHEMA``), sorted by key.

    ``copies`` counts rows that the log held more than once, which are no events.
    """

    summaries: pa.Table
    flags: pa.Table
    copies: int = 0


def tally(slices: Sequence[pa.Table], spec: TallySpec) -> Tally:
    """Deduplicate, flag and summarise whole base windows of some advertisers.

    Identity is (advertiser, type, event_id) within the base window; of duplicates the least
    (occurred_at, content_hash) counts, the others are counted as ``duplicates`` of the row that
    they would have been in. Flags see counted events only.

    Raises:
        SumOverflow: the money of a row does not fit 64 bits.
    """
    events = _prepared(slices, spec)
    summaries = _with_uniques(_summed(events, spec), events, spec)
    all_clicks = events.filter(pl.col("event_type") == _CLICK)
    clicks = all_clicks.filter(pl.col("counted"))
    flagged = rules.click_rate_ip(clicks, spec.ruleset.click_rate_ip)
    withdrawn = _perhaps_flagged_before(all_clicks, spec)
    if withdrawn.height:
        withdrawn = withdrawn.join(flagged, on=["advertiser_id", "window"], how="anti")
    summaries = _with_givt(summaries, clicks, flagged, spec)
    copies = sum(part.num_rows for part in slices) - events.height
    return Tally(
        _summary_table(summaries, spec), _flag_table(flagged, withdrawn, summaries, spec), copies
    )


_IMPRESSION, _CLICK, _CONVERSION = range(3)


def _keys(spec: TallySpec) -> list[str]:
    return ["advertiser_id", *spec.dimensions, "currency", "window"]


def _prepared(slices: Sequence[pa.Table], spec: TallySpec) -> pl.DataFrame:
    """All events with their ``window`` (ms) and whether they are ``counted``."""
    events = pl.DataFrame(pl.from_arrow(pa.concat_tables(slices)))
    window = pl.col("occurred_at") // spec.window_ms * spec.window_ms
    events = events.with_columns(
        window.alias("window"), *(_numbered(events[name]) for name in _keys(spec)[:-1])
    )
    if "position_hash" in events.columns:  # the same row of the log twice is not a duplicate
        ordered = events.sort("occurred_at", "content_hash")
        events = ordered.unique([*IDENTITY, "position_hash"], keep="first", maintain_order=True)
    return _marked(events)


def _numbered(texts: pl.Series) -> pl.Series:
    """Text as numbers in the text's own order: grouping by them takes half the time."""
    values = texts.unique().drop_nulls().sort()
    return texts.cast(pl.Enum(values))


def _marked(events: pl.DataFrame) -> pl.DataFrame:
    """Add ``counted``: false for all but the first of each identity."""
    again = events["event_id"].is_duplicated()  # few; the full identity is compared among them
    if not again.any():
        return events.with_columns(counted=pl.lit(True))
    events = events.with_row_index("row")
    candidates = events.filter(again).select(
        "row", *IDENTITY, "window", "occurred_at", "content_hash"
    )
    losers = candidates.sort("occurred_at", "content_hash").filter(
        ~pl.struct(*IDENTITY, "window").is_first_distinct()
    )
    return events.with_columns(counted=~pl.col("row").is_in(losers["row"].implode())).drop("row")


def _summed(events: pl.DataFrame, spec: TallySpec) -> pl.DataFrame:
    counted = pl.col("counted")

    def number_of(event_type: int) -> pl.Expr:
        return ((pl.col("event_type") == event_type) & counted).sum().cast(pl.Int64)

    sums = (
        events.lazy()
        .group_by(_keys(spec))
        .agg(
            number_of(_IMPRESSION).alias("impressions"),
            number_of(_CLICK).alias("clicks"),
            number_of(_CONVERSION).alias("conversions"),
            *(exact_sum(pl.col(name) * counted) for name in MONEY_FIELDS),
            (~counted).sum().cast(pl.Int64).alias("duplicates"),
            pl.col("occurred_at").min().alias("first_event_at"),
            pl.col("occurred_at").max().alias("last_event_at"),
            pl.len().cast(pl.Int64).alias("seen"),
        )
        .collect()
    )
    generation = spec.generation << GENERATION_BITS
    return checked_sums(sums, MONEY_FIELDS).with_columns(
        (pl.col("seen").sum().over("advertiser_id", "window") + generation).alias("version")
    )


def _with_uniques(summaries: pl.DataFrame, events: pl.DataFrame, spec: TallySpec) -> pl.DataFrame:
    keys = _keys(spec)
    users = (
        events.lazy()
        .filter(pl.col("counted") & pl.col("user_hash").is_not_null())
        .select(*keys, "user_hash")
        .unique()
        .sort("user_hash")
        .group_by(keys, maintain_order=False)
        .agg(pl.col("user_hash").head(spec.uniques_k).alias("unique_user_hashes"))
        .collect()
    )
    joined = summaries.join(users, on=keys, how="left", nulls_equal=True)
    hashes = pl.col("unique_user_hashes").fill_null([])
    return joined.with_columns(hashes).with_columns(
        uniques.estimate(pl.col("unique_user_hashes"), spec.uniques_k).alias("unique_users")
    )


def _with_givt(
    summaries: pl.DataFrame, clicks: pl.DataFrame, flagged: pl.DataFrame, spec: TallySpec
) -> pl.DataFrame:
    """Add ``givt_clicks``: every click of a flagged address; ``net_clicks``: the others."""
    keys = _keys(spec)
    if flagged.height:
        givt = (
            clicks.join(flagged, on=["advertiser_id", "window", "ip"], how="semi")
            .group_by(keys)
            .agg(pl.len().cast(pl.Int64).alias("givt_clicks"))
        )
        summaries = summaries.join(givt, on=keys, how="left", nulls_equal=True)
    else:
        summaries = summaries.with_columns(pl.lit(0, pl.Int64).alias("givt_clicks"))
    return summaries.with_columns(pl.col("givt_clicks").fill_null(0)).with_columns(
        (pl.col("clicks") - pl.col("givt_clicks")).alias("net_clicks")
    )


def _stamps(spec: TallySpec) -> list[pl.Expr]:
    return [
        *window_columns(spec.window_ms, spec.allowed_lateness_ms),
        pl.lit(spec.generation, pl.Int64).alias("generation"),
    ]


def _summary_table(summaries: pl.DataFrame, spec: TallySpec) -> pa.Table:
    target = schema.summary_schema(spec.dimensions)
    times = [utc(pl.col(name)).alias(name) for name in ("first_event_at", "last_event_at")]
    frame = summaries.sort(["window", *_keys(spec)[:-1]]).with_columns(*_stamps(spec), *times)
    return frame.select(target.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(target)


def _perhaps_flagged_before(all_clicks: pl.DataFrame, spec: TallySpec) -> pl.DataFrame:
    """(advertiser, window) that an earlier pane, of some of these events, may have flagged.

    With more events a count only falls when a copy of a click, with another address, takes the
    place of the one that was counted. So no count ever was above that of all copies together.
    """
    keys = ["advertiser_id", "window"]
    copied = all_clicks.filter(~pl.col("counted")).select(keys).unique()
    if not copied.height:
        return copied
    candidates = all_clicks.join(copied, on=keys, how="semi").unique([*keys, "ip", "event_id"])
    flagged = rules.click_rate_ip(candidates, spec.ruleset.click_rate_ip)
    return flagged.select(keys).unique()


def _flag_table(
    flagged: pl.DataFrame, withdrawn: pl.DataFrame, summaries: pl.DataFrame, spec: TallySpec
) -> pa.Table:
    """One row per (advertiser, window) that has flags, whole; an empty one where it may have had.

    The empty row overwrites what an earlier pane may have written.
    """
    if not flagged.height and not withdrawn.height:
        return schema.FLAG_SCHEMA.empty_table()
    keys = ["advertiser_id", "window"]
    versions = summaries.lazy().group_by(keys).agg(pl.col("version").first())
    flag = pl.struct(
        pl.lit(rules.CLICK_RATE_IP).alias("rule"),
        pl.lit("GIVT").alias("ivt_class"),
        pl.lit("ip").alias("subject_type"),
        pl.col("ip").alias("subject"),
        "count",
        "threshold",
        "evidence",
    )
    standing = flagged.group_by(keys).agg(flag.sort_by("ip").alias("flags"))
    empty = withdrawn.select(keys).with_columns(
        pl.lit([], dtype=standing.schema["flags"]).alias("flags")
    )
    frame = (
        pl.concat([standing, empty])
        .lazy()
        .join(versions, on=keys, how="left")
        .sort("window", "advertiser_id")
        .with_columns(*_stamps(spec), pl.lit(spec.ruleset.version).alias("ruleset_version"))
        .collect()
    )
    names = schema.FLAG_SCHEMA.names
    return (
        frame.select(names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema.FLAG_SCHEMA)
    )
