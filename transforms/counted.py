"""Slices to events, and which of them count: where every tally begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.transforms.rules.ruleset import ALLOWED_BIT

IDENTITY: Final = ("advertiser_id", "event_type", "event_id")
_ORDER: Final = ("occurred_at", "content_hash", "ivt")
"""Of copies the least counts. ``ivt`` differs among equal ones only where a record was read again
after the lists had changed."""

COUNTS: Final = ("impressions", "clicks", "conversions")
"""Measures that count events, in the order of ``schema.EVENT_TYPES``."""

CLICK: Final = schema.EVENT_TYPES.index("click")
ALLOWED_EVENT: Final = (pl.col("ivt") >= ALLOWED_BIT).fill_null(False)
BROKEN: Final = (pl.col("ivt") % ALLOWED_BIT > 0).fill_null(False)


def prepared(slices: Sequence[pa.Table], window_ms: int, texts: Sequence[str]) -> pl.DataFrame:
    """All events with a number (``row``), their ``window`` (ms) and whether they are ``counted``.

    Identity is (advertiser, type, event_id) within the base window; of copies the least
    (occurred_at, content_hash) counts.

    Args:
        slices: see :func:`adtally.transforms.slices.narrow_schema`.
        window_ms: the base window.
        texts: columns that are grouped by.
    """
    events = pl.DataFrame(pl.from_arrow(pa.concat_tables(slices)))
    window = pl.col("occurred_at") // window_ms * window_ms
    events = events.with_columns(
        window.alias("window"), *(numbered(events[name]) for name in texts)
    )
    if "position_hash" in events.columns:  # the same row of the log twice is not a duplicate
        ordered = events.sort(*_ORDER)
        events = ordered.unique([*IDENTITY, "position_hash"], keep="first", maintain_order=True)
    return _marked(events.with_row_index("row"))


def numbered(texts: pl.Series) -> pl.Series:
    """Text as numbers in the text's own order: grouping by them takes half the time."""
    values = texts.unique().drop_nulls().sort()
    return texts.cast(pl.Enum(values))


def _marked(events: pl.DataFrame) -> pl.DataFrame:
    """Add ``counted``: false for all but the first of each identity."""
    again = events["event_id"].is_duplicated()  # few; the full identity is compared among them
    if not again.any():
        return events.with_columns(counted=pl.lit(True))
    candidates = events.filter(again).select("row", *IDENTITY, "window", *_ORDER)
    losers = candidates.sort(*_ORDER).filter(~pl.struct(*IDENTITY, "window").is_first_distinct())
    return events.with_columns(counted=~pl.col("row").is_in(losers["row"].implode()))
