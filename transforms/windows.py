"""Windows and versions: what every summary and flag row is stamped with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import polars as pl

_LOG: Final = logging.getLogger("adtally")
_LOGGED: Final = 3

GENERATION_BITS: Final = 40
"""A version is ``generation << 40`` plus the events seen: a trillion events a window fit."""

SEEN_MASK: Final = (1 << GENERATION_BITS) - 1


Ranges = tuple[tuple[int, int], ...]
"""Ranges ``[from, to)`` of event time, in milliseconds since the epoch."""


def within(start: pl.Expr, end: pl.Expr, ranges: Ranges) -> pl.Expr:
    """True where ``[start, end)`` lies whole inside one of the ranges."""
    return pl.any_horizontal((start >= low) & (end <= high) for low, high in ranges)


def utc(ms: pl.Expr) -> pl.Expr:
    """Milliseconds since the epoch as a timestamp."""
    return ms.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def window_columns(window_ms: int, allowed_lateness_ms: int) -> list[pl.Expr]:
    """Columns that follow from ``window``, the start of a window in milliseconds."""
    start = pl.col("window")
    return [
        utc(start).alias("window_start"),
        utc(start + window_ms).alias("window_end"),
        pl.lit(window_ms // 1000, pl.Int64).alias("window_seconds"),
        utc(start + window_ms + allowed_lateness_ms).alias("final_after"),
    ]


MOST_MICROS: Final = (1 << 63) - 1
"""What a sum of money says that is beyond it, or with a minus, below."""


def exact_sum(micros: pl.Expr) -> pl.Expr:
    """A sum in 128 bits, because Polars wraps 64 around without a word; see limited_sums."""
    return micros.cast(pl.Int128).sum()


def limited(micros: pl.Expr) -> pl.Expr:
    """128 bits of money as int64, no further than ``MOST_MICROS``."""
    return micros.clip(-MOST_MICROS, MOST_MICROS).cast(pl.Int64)


def limited_sums(sums: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Sums of :func:`exact_sum` as int64, for rows with a ``window``, advertiser and currency.

    One that does not fit is ``MOST_MICROS``, and logged: a thousand events of ten billion each are
    enough for that, and must not end a stream for all other advertisers.
    """
    for name in names:
        beyond = sums.filter(~pl.col(name).is_between(-MOST_MICROS, MOST_MICROS))
        for row in beyond.with_columns(utc(pl.col("window"))).head(_LOGGED).iter_rows(named=True):
            _LOG.error(
                "%s of advertiser %r in %s is %s in the window that begins at %s, more than 64 "
                "bits hold; its row says %s. Correct the amounts, or their unit in the mapping "
                "(micros_per_unit), and run again",
                *(name, row["advertiser_id"], row["currency"], row[name]),
                f"{row['window']:%Y-%m-%dT%H:%M:%SZ}",
                MOST_MICROS if row[name] > 0 else -MOST_MICROS,
            )
    return sums.with_columns(limited(pl.col(name)) for name in names)
