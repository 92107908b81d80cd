"""Roll-ups: larger windows from base rows, never again from events."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms import uniques
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
) -> pa.Table:
    """Sum base rows into windows of ``window_ms``.

    Of base rows with the same identity the one of the highest version stands, so panes that come
    again change nothing. ``version`` is the generation above the sum of what the base rows had
    seen, so it rises with every one of them; users are merged by their hashes.
    """
    target = schema.summary_schema(dimensions)
    rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
    identity = ["advertiser_id", *dimensions, "currency", "window_start"]
    latest = rows.sort("version", descending=True).unique(identity, keep="first")
    start = pl.col("window_start").dt.epoch("ms") // window_ms * window_ms
    keys = ["advertiser_id", *dimensions, "currency", "window"]
    sums = (
        latest.with_columns(start.alias("window"))
        .group_by(keys)
        .agg(
            *(
                exact_sum(pl.col(name)) if name in schema.MONEY else pl.col(name).sum()
                for name in schema.MEASURES
            ),
            pl.col("unique_user_hashes").explode().alias("unique_user_hashes"),
            pl.col("first_event_at").min(),
            pl.col("last_event_at").max(),
            pl.col("generation").max(),
            (pl.col("version") & SEEN_MASK).sum().alias("seen"),
        )
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
