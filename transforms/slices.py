"""Events to slices: only what the tally needs, cut so that few elements cross the shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
import polars_hash as plh
import pyarrow as pa

from adtally.io import schema
from adtally.transforms.rules.history import LOOK_BACK_MS, RECENT_MS
from adtally.transforms.rules.ruleset import ALLOWED, ALLOWED_BIT, EVENT_RULES, Ruleset
from adtally.transforms.windows import Ranges, utc, within

SHARDS: Final = 16
"""Groups per window. Each costs some milliseconds, and holds its share of a window in memory."""


@dataclass(frozen=True)
class HistoryCut:
    """History windows, for which events that come before them are sent along.

    Attributes:
        window_ms: a history window, a multiple of the base window.
        beam_window_ms: a multiple of it, within which nothing has to be sent along.
    """

    window_ms: int
    beam_window_ms: int

    def start(self, occurred: pl.Expr) -> pl.Expr:
        """Of the history window, in milliseconds."""
        return occurred // self.window_ms * self.window_ms

    def knows(self, occurred: pl.Expr, event_type: pl.Expr, base_window_ms: int) -> pl.Expr:
        """Whether the next history window knows of an event: see ``rules.history``.

        Args:
            occurred: milliseconds.
            event_type: index in ``schema.EVENT_TYPES``.
            base_window_ms: of which all copies of an event are known, or none.
        """
        shown = (event_type == _IMPRESSION) & (occurred >= self._next(occurred) - LOOK_BACK_MS)
        return shown | self.knows_whole(occurred, event_type, base_window_ms)

    def knows_whole(self, occurred: pl.Expr, event_type: pl.Expr, base_window_ms: int) -> pl.Expr:
        """Whether it knows all columns that rules see, and not only that it happened."""
        recent = (self._next(occurred) - RECENT_MS) // base_window_ms * base_window_ms
        return (event_type != _CONVERSION) & (occurred >= recent)

    def _next(self, occurred: pl.Expr) -> pl.Expr:
        return self.start(occurred) + self.window_ms


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
        past_ms: events so far before the ranges are cut as well: series inside are compared with
            their windows.
        keep_position: carry a hash of the record's address, so that a row which the log holds
            twice is not taken for a duplicate event.
        history: cut what history windows need, too; None where no rule looks that far.
        kept_ms: how long the runner keeps a base window after its end, at the least.
        allow: has the users and addresses that no rule judges. None where events carry pseudonyms,
            and were marked when they were decoded.
    """

    base_window_ms: int
    beam_window_ms: int
    allowed_lateness_ms: int | None
    dimensions: tuple[str, ...] = ()
    shards: int = SHARDS
    ranges: Ranges = ()
    past_ms: int = 0
    keep_position: bool = False
    allow: Ruleset | None = None
    history: HistoryCut | None = None
    kept_ms: int = 0


@dataclass(frozen=True)
class Slice:
    """Events of one shard within one Beam window that begins at ``window_start_ms``."""

    shard: int
    window_start_ms: int
    table: pa.Table


@dataclass(frozen=True)
class Sliced:
    """What became of a batch of events.

    Attributes:
        slices: events that count.
        context: those of them that the history windows after theirs know of.
        late: late events (``EVENT_SCHEMA`` and ``window_start``).
        out_of_range: how many are in no range.
        overdue: how many of the late ones are so because the runner let go of their windows.
    """

    slices: list[Slice]
    context: list[Slice]
    late: pa.Table
    out_of_range: int
    overdue: int = 0


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
        pa.field("impression_id", pa.string()),
        pa.field("click_id", pa.string()),
        pa.field("ivt", pa.int8()),
        *(pa.field(name, pa.string()) for name in dict.fromkeys([*dimensions, "publisher_id"])),
    ]
    if keep_position:
        fields.append(pa.field("position_hash", pa.int64()))
    return pa.schema(fields)


def slice_events(events: pa.Table, spec: SliceSpec, watermark_ms: int | None = None) -> Sliced:
    """Cut a batch of events (``EVENT_SCHEMA``) into slices; nothing is lost between the outputs.

    Args:
        events: the batch.
        spec: how to cut.
        watermark_ms: the runner may have let go of windows that ended ``kept_ms`` before: events
            of those are late.
    """
    frame = pl.DataFrame(pl.from_arrow(events))
    window = _OCCURRED // spec.base_window_ms * spec.base_window_ms
    late = overdue = pl.lit(False)
    if spec.allowed_lateness_ms is not None:
        deadline = window + spec.base_window_ms + spec.allowed_lateness_ms
        received = pl.max_horizontal("received_at", "arrived_at").dt.epoch("ms")
        late = (received > deadline).fill_null(False)
        if watermark_ms is not None:
            overdue = ~late & (window + spec.base_window_ms + spec.kept_ms < watermark_ms)
            late |= overdue
    inside = known = pl.lit(True)
    if spec.ranges:
        wider = tuple((start - spec.past_ms, end) for start, end in spec.ranges)
        inside, known = (within(_OCCURRED, _OCCURRED + 1, some) for some in (spec.ranges, wider))
    marked = frame.with_columns(
        (late & inside).alias("late"),
        (known & ~late).alias("counted"),
        late.alias("too_late"),
        overdue.alias("overdue"),
    )
    marks = ("late", "counted", "too_late", "overdue")
    late_frame, counted = marked.clear(), marked
    if not marked["counted"].all():
        late_frame, counted = marked.filter("late"), marked.filter("counted")
    late_table = late_frame.drop(marks).with_columns(utc(window).alias("window_start"))
    return Sliced(
        list(_cut(counted, spec, _OCCURRED // spec.beam_window_ms * spec.beam_window_ms)),
        list(_context(marked, spec)),
        late_table.to_arrow(compat_level=pl.CompatLevel.newest()),
        frame.height - counted.height - late_frame.height,
        int(late_frame["overdue"].sum()),
    )


def _context(marked: pl.DataFrame, spec: SliceSpec) -> Iterator[Slice]:
    """What the history windows after theirs know of events."""
    history = spec.history
    if history is None:
        return
    after = history.start(_OCCURRED) + history.window_ms
    wanted = within(after, after + history.window_ms, spec.ranges) if spec.ranges else pl.lit(True)
    own, theirs = (at // history.beam_window_ms for at in (_OCCURRED, after))
    apart = (own != theirs) | ~pl.col("counted")
    known = marked.filter(
        ~pl.col("too_late")
        & wanted
        & apart
        & history.knows(_OCCURRED, _EVENT_TYPE, spec.base_window_ms)
    )
    whole = history.knows_whole(pl.col("occurred_at"), pl.col("event_type"), spec.base_window_ms)
    yield from _cut(known, spec, theirs * history.beam_window_ms, whole)


def _cut(
    frame: pl.DataFrame, spec: SliceSpec, at: pl.Expr, whole: pl.Expr | None = None
) -> Iterator[Slice]:
    """Events by Beam window, which begins ``at``, and shard.

    Args:
        frame: events.
        spec: how to cut.
        at: milliseconds.
        whole: of a slice's columns: of which events all are needed; None for all events.
    """
    if not frame.height:
        return
    target = narrow_schema(spec.dimensions, spec.keep_position)
    allowed = pl.lit(False) if spec.allow is None else pl.lit(spec.allow.allowed(frame))
    narrow = frame.select(at.alias("beam_window"), *_narrow(spec, allowed))
    if whole is not None:
        narrow = narrow.with_columns(
            _only(whole, field.name)
            if field.type == pa.string()
            else pl.when(whole).then(field.name).otherwise(0).alias(field.name)
            for field in target
            if field.name not in _BARE
        )
    for (start, shard), part in narrow.partition_by(
        ["beam_window", "shard"], as_dict=True, maintain_order=True, include_key=False
    ).items():
        table = part.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(target)
        yield Slice(int(shard), int(start), table)


_BARE: Final = ("advertiser_id", "event_type", "event_id", "occurred_at", "position_hash")
"""Columns of an event of which only is known that it happened."""

_OCCURRED: Final = pl.col("occurred_at").dt.epoch("ms")
_EVENT_TYPE: Final = pl.col("event_type").replace_strict(
    {name: index for index, name in enumerate(schema.EVENT_TYPES)}, return_dtype=pl.Int8
)
_IMPRESSION: Final = schema.EVENT_TYPES.index("impression")
_CONVERSION: Final = schema.EVENT_TYPES.index("conversion")


def _narrow(spec: SliceSpec, allowed: pl.Expr) -> list[pl.Expr]:
    is_click = pl.col("event_type") == "click"
    is_conversion = pl.col("event_type") == "conversion"
    none = pl.lit(None, pl.String)
    looks_back = spec.history is not None
    columns = [
        (plh.col("advertiser_id").nchash.xxh3_64() % spec.shards).cast(pl.Int64).alias("shard"),
        pl.col("advertiser_id"),
        _EVENT_TYPE,
        pl.col("event_id"),
        _OCCURRED,
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
        pl.col("user_id") if looks_back else _only(is_click, "user_id"),
        _only(is_click, "impression_id") if looks_back else none.alias("impression_id"),
        _only(is_conversion, "click_id") if looks_back else none.alias("click_id"),
        _verdicts(allowed).alias("ivt"),
        *(pl.col(name) for name in spec.dimensions),
    ]
    if "publisher_id" not in spec.dimensions:
        by_publisher = _only(is_click | is_conversion, "publisher_id")
        columns.append(by_publisher if looks_back else none.alias("publisher_id"))
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
