"""Roll-ups: larger windows from base rows, never again from events."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms import uniques
from adtally.transforms.counted import COUNTS
from adtally.transforms.overflow import OTHER, beyond, standing
from adtally.transforms.windows import (
    GENERATION_BITS,
    SEEN_MASK,
    exact_sum,
    limited_sums,
    window_columns,
)


def roll_up(
    tables: Sequence[pa.Table],
    window_ms: int,
    allowed_lateness_ms: int,
    dimensions: Sequence[str],
    uniques_k: int = uniques.UNIQUES_K,
    max_rows: int = 0,
) -> pa.Table:
    """Sum base rows into windows of ``window_ms``.

    Of base rows with the same identity the one of the highest version stands, and none that was
    folded since, so panes that come again change nothing. ``version`` is the generation above the
    sum of what the advertiser's base windows had seen, so it rises with every one of them; users
    are merged by their hashes. Rows beyond ``max_rows`` of an advertiser and window are one; 0 for
    no limit.
    """
    target = schema.summary_schema(dimensions)
    rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
    identity = ["advertiser_id", *dimensions, "currency", "window_start"]
    base = ["advertiser_id", "window_start"]
    latest = standing(
        rows.sort("version", descending=True).unique(identity, keep="first"), dimensions, base
    )
    start = pl.col("window_start").dt.epoch("ms") // window_ms * window_ms
    latest = _folded(latest.with_columns(start.alias("window")), dimensions, max_rows)
    keys = ["advertiser_id", *dimensions, "currency", "window"]
    sums = (
        latest.group_by(keys)
        .agg(
            *(
                exact_sum(pl.col(name)) if name in schema.MONEY else pl.col(name).sum()
                for name in schema.MEASURES
            ),
            pl.col("unique_user_hashes").explode().alias("unique_user_hashes"),
            pl.col("first_event_at").min(),
            pl.col("last_event_at").max(),
            pl.col("generation").max(),
        )
        .join(_seen(latest, base), on=["advertiser_id", "window"])
    )
    merged = (
        limited_sums(sums, schema.MONEY)
        .with_columns(
            uniques.bottom_k(pl.col("unique_user_hashes"), uniques_k),
            *window_columns(window_ms, allowed_lateness_ms),
            ((pl.col("generation") * (1 << GENERATION_BITS)) + pl.col("seen")).alias("version"),
        )
        .with_columns(
            uniques.estimate(pl.col("unique_user_hashes"), uniques_k).alias("unique_users")
        )
    )
    ordered = merged.sort(["window", *keys[:-1]]).select(target.names)
    return ordered.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(target)


def _folded(rows: pl.DataFrame, dimensions: Sequence[str], max_rows: int) -> pl.DataFrame:
    """Base rows with the dimensions of the row of the larger window that they belong to."""
    if not dimensions or not max_rows or rows.height <= max_rows:
        return rows
    keys = ["advertiser_id", "window", *dimensions, "currency"]
    seen = pl.sum_horizontal(*COUNTS, "duplicates").sum().alias("seen")
    folded = beyond(rows.group_by(keys).agg(seen), dimensions, max_rows)
    if not folded.height:
        return rows
    marked = rows.join(
        folded.select(*keys, folded=pl.lit(True)), on=keys, how="left", nulls_equal=True
    )
    replaced = [
        pl.when("folded").then(pl.lit(OTHER)).otherwise(pl.col(name)).alias(name)
        for name in dimensions
    ]
    return marked.with_columns(replaced).drop("folded")


def _seen(rows: pl.DataFrame, base: Sequence[str]) -> pl.DataFrame:
    """What each advertiser's larger window had seen: the same for all of its rows."""
    windows = rows.group_by(*base, "window").agg(pl.col("version").max() & SEEN_MASK)
    return windows.group_by("advertiser_id", "window").agg(pl.col("version").sum().alias("seen"))
