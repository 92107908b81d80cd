"""Distinct users as bottom-k hashes: mergeable, independent of order, exact while small.

The ``k`` smallest 64-bit hashes of a set say how many members it has: with fewer than ``k``
they are all there, and their number is exact; with ``k`` or more, the k-th smallest, as a
fraction ``u`` of the range, gives ``(k - 1) / u``, whose relative standard error is about
``1 / sqrt(k - 2)`` (Bar-Yossef et al. 2002; Beyer et al. 2007, KMV). The default k of 1,024
gives 3.1%. Hashes are XXH3-64 of the UTF-8 text, as signed integers, so any language can merge.
"""

from __future__ import annotations

from typing import Final

import polars as pl

UNIQUES_K: Final = 1_024
_HALF_RANGE: Final = float(1 << 63)


def bottom_k(hashes: pl.Expr, k: int) -> pl.Expr:
    """Lists of hashes (any order, repeats allowed) to their ``k`` smallest, sorted, distinct."""
    return hashes.list.unique().list.sort().list.head(k)


def estimate(hashes: pl.Expr, k: int) -> pl.Expr:
    """Number of distinct users behind sorted bottom-k lists, as a whole number."""
    size = hashes.list.len().cast(pl.Int64)
    fraction = hashes.list.last().cast(pl.Float64) / (2 * _HALF_RANGE) + 0.5
    guess = ((k - 1) / fraction).round().cast(pl.Int64, strict=False)
    return pl.when(size < k).then(size).otherwise(pl.max_horizontal(guess, pl.lit(k)))
