"""Events to slices: only what the tally needs, cut so that few elements cross the shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
import polars_hash as plh
import pyarrow as pa

from adtally.io import schema
from adtally.transforms.rules.ruleset import ALLOWED, ALLOWED_BIT, EVENT_RULES, Ruleset
from adtally.transforms.windows import Ranges, utc, within

SHARDS: Final = 16
"""Groups per window. Each costs some milliseconds, and holds its share of a window in memory."""


@dataclass(frozen=True)
class SliceSpec:
    """How events are cut.

    Attributes:
        base_window_ms: the base window, which decides what is late.
        beam_window_ms: a multiple of it: each slice lies in exactly one of these.
        allowed_lateness_ms: an event received later than its base window's end plus this is late.
            None counts every event (a re-tally from the complete log).
        dimensions: event fields that summaries are broken down by.
        shards: slices are keyed by a hash of the advertiser modulo this.
        ranges: only events of one of these ``[from, to)``, in milliseconds, count; empty for all.
        keep_position: carry a hash of the record's address, so that a row which the log holds
            twice is not taken for a duplicate event.
        allow: has the users and addresses that no rule judges. None where events carry pseudonyms,
            and were marked when they were decoded.
    """

    base_window_ms: int
    beam_window_ms: int
    allowed_lateness_ms: int | None
    dimensions: tuple[str, ...] = ()
    shards: int = SHARDS
    ranges: Ranges = ()
    keep_position: bool = False
    allow: Ruleset | None = None


@dataclass(frozen=True)
class Slice:
    """Events of one shard within one Beam window that begins at ``window_start_ms``."""

    shard: int
    window_start_ms: int
    table: pa.Table


@dataclass(frozen=True)
class Sliced:
    """Slices, the late events (``EVENT_SCHEMA`` and ``window_start``), and those out of range."""

    slices: list[Slice]
    late: pa.Table
    out_of_range: int


def narrow_schema(dimensions: Sequence[str], keep_position: bool = False) -> pa.Schema:
    """Schema of a slice: under 100 bytes an event."""
    fields = [
        pa.field("advertiser_id", pa.string()),
        pa.field("event_type", pa.int8()),
        pa.field("event_id", pa.string()),
        pa.field("occurred_at", pa.int64()),
        pa.field("content_hash", pa.int64()),
        pa.field("currency", pa.string()),
        pa.field("cost_micros", pa.int64()),
        pa.field("revenue_micros", pa.int64()),
        pa.field("user_hash", pa.int64()),
        pa.field("creative_hash", pa.int32()),
        pa.field("ip", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("ivt", pa.int8()),
        *(pa.field(name, pa.string()) for name in dimensions),
    ]
    if keep_position:
        fields.append(pa.field("position_hash", pa.int64()))
    return pa.schema(fields)


def slice_events(events: pa.Table, spec: SliceSpec) -> Sliced:
    """Cut a batch of events (``EVENT_SCHEMA``) into slices; nothing is lost between the outputs."""
    frame = pl.DataFrame(pl.from_arrow(events))
    occurred = pl.col("occurred_at").dt.epoch("ms")
    window = (occurred // spec.base_window_ms) * spec.base_window_ms
    late = pl.lit(False)
    if spec.allowed_lateness_ms is not None:
        deadline = window + spec.base_window_ms + spec.allowed_lateness_ms
        received = pl.max_horizontal("received_at", "arrived_at").dt.epoch("ms")
        late = (received > deadline).fill_null(False)
    ranged = frame.filter(within(occurred, occurred + 1, spec.ranges)) if spec.ranges else frame
    is_late = ranged.select(late.alias("late")).to_series()
    late_frame, counted = ranged.clear(), ranged
    if is_late.any():
        late_frame, counted = ranged.filter(is_late), ranged.filter(~is_late)
    late_table = late_frame.with_columns(utc(window).alias("window_start"))
    return Sliced(
        list(_cut(counted, spec)),
        late_table.to_arrow(compat_level=pl.CompatLevel.newest()),
        frame.height - ranged.height,
    )


def _cut(frame: pl.DataFrame, spec: SliceSpec) -> Iterator[Slice]:
    if not frame.height:
        return
    target = narrow_schema(spec.dimensions, spec.keep_position)
    allowed = pl.lit(False) if spec.allow is None else pl.lit(spec.allow.allowed(frame))
    narrow = frame.select(_narrow(spec, allowed))
    for (start, shard), part in narrow.partition_by(
        ["beam_window", "shard"], as_dict=True, maintain_order=True, include_key=False
    ).items():
        table = part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(target)
        yield Slice(int(shard), int(start), table)


def _narrow(spec: SliceSpec, allowed: pl.Expr) -> list[pl.Expr]:
    occurred = pl.col("occurred_at").dt.epoch("ms")
    is_click = pl.col("event_type") == "click"
    types = {name: index for index, name in enumerate(schema.EVENT_TYPES)}
    columns = [
        (occurred // spec.beam_window_ms * spec.beam_window_ms).alias("beam_window"),
        (plh.col("advertiser_id").nchash.xxh3_64() % spec.shards).cast(pl.Int64).alias("shard"),
        pl.col("advertiser_id"),
        pl.col("event_type").replace_strict(types, return_dtype=pl.Int8),
        pl.col("event_id"),
        occurred.alias("occurred_at"),
        pl.col("content_hash"),
        pl.col("currency").fill_null(schema.NO_CURRENCY),
        pl.col("cost_micros").fill_null(0),
        pl.col("revenue_micros").fill_null(0),
        plh.col("user_id").nchash.xxh3_64().reinterpret(signed=True).alias("user_hash"),
        # Only clicks are judged by these; nulls cost nothing in the shuffle.
        pl.when(is_click)
        .then((plh.col("creative_id").nchash.xxh3_64() % (1 << 31)).cast(pl.Int32))
        .alias("creative_hash"),
        _only(is_click, "ip"),
        _only(is_click, "user_id"),
        _verdicts(allowed).alias("ivt"),
        *(pl.col(name) for name in spec.dimensions),
    ]
    if spec.keep_position:
        columns.append(_position_hash())
    return columns


def _only(where: pl.Expr, name: str) -> pl.Expr:
    """A text column, null elsewhere; without the second step its hidden bytes were sent along."""
    text = pl.when(where).then(pl.col(name)).otherwise(pl.lit("")).fill_null("")
    return pl.when(text != "").then(text).alias(name)


def _verdicts(allowed: pl.Expr) -> pl.Expr:
    """``ivt_reasons`` as a sum of bits, see :data:`adtally.transforms.rules.ruleset.EVENT_RULES`.

    Null where there are none. Six rules and ``ALLOWED`` fit a byte.
    """
    reasons = pl.col("ivt_reasons").list
    broken = [
        reasons.contains(rule.NAME).cast(pl.Int8) * (1 << number)
        for number, rule in enumerate(EVENT_RULES)
    ]
    marked = allowed | reasons.contains(ALLOWED).fill_null(False)
    return pl.sum_horizontal(*broken, marked.cast(pl.Int8) * ALLOWED_BIT).replace(0, None)


def _position_hash() -> pl.Expr:
    place = plh.concat_str(
        "source", pl.lit("@"), pl.col("position"), pl.lit("#"), pl.col("record_index")
    )
    return place.nchash.xxh3_64().reinterpret(signed=True).alias("position_hash")
