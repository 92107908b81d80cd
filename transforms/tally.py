"""The tally: events of one shard to summaries and flags, one pure function of a set of events.

The result depends on the set of events and nothing else: not on their order, on how they were
cut into slices, on the pane or the runner, or on when it ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms import uniques
from adtally.transforms.counted import (
    ALLOWED_EVENT,
    BROKEN,
    CLICK,
    COUNTS,
    numbered,
    prepared,
)
from adtally.transforms.mapping import MONEY_FIELDS
from adtally.transforms.overflow import fold
from adtally.transforms.rules.base import evidence
from adtally.transforms.rules.ruleset import EVENT_RULES, NO_FLAGS, Ruleset
from adtally.transforms.windows import (
    GENERATION_BITS,
    exact_sum,
    limited,
    limited_sums,
    utc,
    window_columns,
)


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
        max_rows: of an advertiser and window, that stand for themselves; 0 for all.
    """

    window_ms: int
    allowed_lateness_ms: int
    dimensions: tuple[str, ...] = ()
    generation: int = 0
    ruleset: Ruleset = Ruleset()
    uniques_k: int = uniques.UNIQUES_K
    max_rows: int = 0


@dataclass(frozen=True)
class Tally:
    """Summaries (``schema.summary_schema``) and flags (``schema.FLAG_SCHEMA``), sorted by key.

    Attributes:
        summaries: of all events.
        flags: of counted events.
        copies: rows that the log held more than once, which are no events.
        folded: rows that do not stand for themselves, see :func:`adtally.transforms.overflow.fold`.
    """

    summaries: pa.Table
    flags: pa.Table
    copies: int = 0
    folded: pl.DataFrame = field(default_factory=pl.DataFrame)


def tally(slices: Sequence[pa.Table], spec: TallySpec) -> Tally:
    """Deduplicate, flag and summarise whole base windows of some advertisers.

    Identity is (advertiser, type, event_id) within the base window; of duplicates the least
    (occurred_at, content_hash) counts, the others are counted as ``duplicates`` of the row that
    they would have been in. Flags see counted events only. Rows beyond ``spec.max_rows`` of an
    advertiser and window are one, whose sums and users are those of all of their events.
    """
    events = prepared(slices, spec.window_ms, _keys(spec)[:-1])
    clicks = events.filter((pl.col("event_type") == CLICK) & ~ALLOWED_EVENT)
    flags, invalid = spec.ruleset.judge_clicks(clicks.filter(pl.col("counted")))
    events = _judged(events, invalid)
    copies = sum(part.num_rows for part in slices) - events.height
    events, folded = fold(events, spec.dimensions, spec.max_rows)
    if folded.height:
        events = events.with_columns(numbered(events[name]) for name in spec.dimensions)
    summaries = _with_uniques(_summed(events, spec), events, spec)
    flags = pl.concat([flags, _event_flags(events, spec)])
    suspects = pl.concat([spec.ruleset.suspects(clicks), _event_suspects(events)]).unique()
    return Tally(
        _summary_table(summaries, spec),
        _flag_table(flags, suspects, summaries, spec),
        copies,
        folded,
    )


def _keys(spec: TallySpec) -> list[str]:
    return ["advertiser_id", *spec.dimensions, "currency", "window"]


def _judged(events: pl.DataFrame, invalid: pl.Series) -> pl.DataFrame:
    """Add ``givt``: counted events that a rule calls invalid."""
    by_click = pl.col("row").is_in(invalid.implode()) if invalid.len() else pl.lit(False)
    return events.with_columns(givt=pl.col("counted") & (BROKEN | by_click))


def _summed(events: pl.DataFrame, spec: TallySpec) -> pl.DataFrame:
    counted, givt = pl.col("counted"), pl.col("givt")

    def number_of(event_type: int, which: pl.Expr) -> pl.Expr:
        return ((pl.col("event_type") == event_type) & which).sum().cast(pl.Int64)

    sums = (
        events.lazy()
        .group_by(_keys(spec))
        .agg(
            *(
                number_of(code, which).alias(prefix + name)
                for prefix, which in (("", counted), ("givt_", givt))
                for code, name in enumerate(COUNTS)
            ),
            *(exact_sum(pl.col(name) * counted) for name in MONEY_FIELDS),
            exact_sum(pl.col("cost_micros") * givt).alias("givt_cost_micros"),
            (~counted).sum().cast(pl.Int64).alias("duplicates"),
            pl.col("occurred_at").min().alias("first_event_at"),
            pl.col("occurred_at").max().alias("last_event_at"),
            pl.len().cast(pl.Int64).alias("seen"),
        )
        .collect()
    )
    generation = spec.generation << GENERATION_BITS
    return limited_sums(sums, (*MONEY_FIELDS, "givt_cost_micros")).with_columns(
        (pl.col("seen").sum().over("advertiser_id", "window") + generation).alias("version"),
        *(
            limited(pl.col(name).cast(pl.Int128) - pl.col(f"givt_{name}")).alias(f"net_{name}")
            for name in (*COUNTS, "cost_micros")
        ),
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


def _event_flags(events: pl.DataFrame, spec: TallySpec) -> pl.DataFrame:
    """What rules for single events found: one flag per advertiser, window and rule."""
    broken = events.filter(BROKEN & pl.col("counted"))
    found = [NO_FLAGS]
    for number, rule in enumerate(EVENT_RULES if broken.height else ()):
        some = broken.filter((pl.col("ivt") // (1 << number)) % 2 == 1)
        flags = some.group_by("advertiser_id", "window").agg(pl.len().alias("count"), evidence())
        named = flags.with_columns(
            pl.lit("advertiser").alias("subject_type"),
            pl.col("advertiser_id").alias("subject"),
            pl.lit(0).alias("threshold"),
            pl.lit(rule.NAME).alias("rule"),
            pl.lit(rule.IVT_CLASS).alias("ivt_class"),
        )
        found.append(named.select(NO_FLAGS.columns).cast(NO_FLAGS.schema))
    return pl.concat(found)


def _event_suspects(events: pl.DataFrame) -> pl.DataFrame:
    """(advertiser_id, window) where an earlier pane may have counted another, invalid copy."""
    copies = events.filter(BROKEN & ~pl.col("counted"))
    return copies.select(pl.col("advertiser_id").cast(pl.String), "window").unique()


def _flag_table(
    flags: pl.DataFrame, suspects: pl.DataFrame, summaries: pl.DataFrame, spec: TallySpec
) -> pa.Table:
    """One row per (advertiser, window) that has flags, whole; an empty one where it may have had.

    The empty row overwrites what an earlier pane may have written.
    """
    if not flags.height and not suspects.height:
        return schema.FLAG_SCHEMA.empty_table()
    keys = ["advertiser_id", "window"]
    versions = summaries.select(
        pl.col("advertiser_id").cast(pl.String), "window", "version"
    ).unique()
    names = [field.name for field in schema.FLAG_TYPE]
    flag = pl.struct(*names)
    standing = flags.group_by(keys).agg(
        flag.sort_by("rule", "subject_type", "subject").alias("flags")
    )
    empty = suspects.join(standing, on=keys, how="anti").with_columns(
        pl.lit([], dtype=standing.schema["flags"]).alias("flags")
    )
    frame = (
        pl.concat([standing, empty.select(standing.columns)])
        .lazy()
        .join(versions.lazy(), on=keys, how="left")
        .sort("window", "advertiser_id")
        .with_columns(*_stamps(spec), pl.lit(spec.ruleset.version).alias("ruleset_version"))
        .collect()
    )
    columns = schema.FLAG_SCHEMA.names
    return (
        frame.select(columns)
        .to_arrow(compat_level=pl.CompatLevel.oldest())
        .cast(schema.FLAG_SCHEMA)
    )
