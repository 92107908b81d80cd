"""Rows beyond what one advertiser may have in a window, folded into one.

A tenant that sends random campaign ids has a row for each, and files and indices that all share
would grow with them. Which rows are kept depends on the set of events only, as everything in a
tally does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

OTHER: Final = "__other__"
"""What every dimension of a folded row says. An event that says so itself meets that row."""

_GROUP: Final = ("advertiser_id", "window")


def is_folded(dimensions: Sequence[str]) -> pl.Expr:
    """Whether a row is the one that others are folded into."""
    if not dimensions:
        return pl.lit(False)
    return pl.all_horizontal(
        pl.col(name).cast(pl.String).eq_missing(pl.lit(OTHER)) for name in dimensions
    )


def standing(rows: pl.DataFrame, dimensions: Sequence[str], group: Sequence[str]) -> pl.DataFrame:
    """Rows without the void ones: those of a lower version than a folded row of their group.

    All rows that a pane gives for an advertiser and window have the same version, so what is lower
    is of an earlier pane, in which a row that is folded now may have stood for itself.

    Args:
        rows: with ``version``, dimensions as text.
        dimensions: of the rows.
        group: what tells an advertiser's windows apart; of one generation, or with it.
    """
    if not dimensions or not rows.height:
        return rows
    folded = is_folded(dimensions)
    if not rows.select(folded.any()).item():
        return rows
    least = pl.col("version").filter(folded).max().over(*group)
    return rows.filter(pl.col("version") >= least.fill_null(0))


def beyond(rows: pl.DataFrame, dimensions: Sequence[str], most: int) -> pl.DataFrame:
    """Rows that have to be folded: all but the ``most`` of an advertiser and window that saw most.

    Of those that saw equally many, the first by their dimensions and currency are kept; null comes
    first, text is in the order of its UTF-8. The folded row itself takes no place.

    Args:
        rows: ``advertiser_id``, ``window``, the dimensions, ``currency``, ``seen``; each once.
        dimensions: what rows are broken down by.
        most: rows that may stand for themselves.
    """
    crowded = rows.filter(~is_folded(dimensions)).filter(pl.len().over(*_GROUP) > most)
    order = [*dimensions, "currency"]
    descending = [True, *([False] * len(order))]
    ranked = crowded.sort("seen", *order, descending=descending, nulls_last=False)
    return ranked.filter(pl.int_range(pl.len()).over(*_GROUP) >= most)


def fold(
    events: pl.DataFrame, dimensions: Sequence[str], most: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events with the dimensions of rows beyond ``most`` replaced by ``OTHER``.

    Args:
        events: with ``advertiser_id``, ``window``, the dimensions and ``currency``.
        dimensions: what rows are broken down by.
        most: rows of an advertiser and window that may stand for themselves; 0 for all.

    Returns:
        The events, with dimensions as text if any was folded; and what was: the keys of the rows,
        with the events that each had ``seen``.
    """
    keys = [*_GROUP, *dimensions, "currency"]
    none = events.select(keys).clear().with_columns(pl.lit(0, pl.UInt32).alias("seen"))
    if not dimensions or not most or events.height <= most:
        return events, none
    crowds = events.group_by(_GROUP).len().filter(pl.col("len") > most)
    if not crowds.height:
        return events, none
    some = events.lazy().join(crowds.lazy(), on=_GROUP, how="semi")
    folded = beyond(some.group_by(keys).agg(pl.len().alias("seen")).collect(), dimensions, most)
    if not folded.height:
        return events, none
    marked = events.join(
        folded.select(*keys, folded=pl.lit(True)), on=keys, how="left", nulls_equal=True
    )
    replaced = [
        pl.when("folded").then(pl.lit(OTHER)).otherwise(pl.col(name).cast(pl.String)).alias(name)
        for name in dimensions
    ]
    return marked.with_columns(replaced).drop("folded"), folded
