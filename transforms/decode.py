"""Records to events: one schema, whole chunks at a time, every record accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa

from adtally.io import schema
from adtally.io.arrow import with_tag
from adtally.io.dead_letters import DeadLetter
from adtally.io.read_logs import LogChunk
from adtally.transforms import columns
from adtally.transforms.json_lines import parse_lines
from adtally.transforms.mapping import (
    MONEY_FIELDS,
    TIME_FIELDS,
    EventMapping,
    FieldRule,
    Mapping,
)
from adtally.transforms.pii import Pii
from adtally.transforms.rules.ruleset import Ruleset

DAY_MS: Final = 86_400_000
VALUE_LIMIT: Final = 200
"""Characters of a bad value that a dead letter's message repeats."""

MONEY_LIMIT_MICROS: Final = 10**16
"""Ten billion currency units. An amount beyond is a mistake of units, and a few hundred of them in
one window would not fit the 64 bits of its sum."""

WATERMARK: Final = "watermark"
"""Tag of a table, in milliseconds: see :class:`adtally.io.read_logs.LogChunk`."""

_STRINGS_AND_LONG_NUMBERS: Final = r'"((?:[^"\\]|\\.)*)"|(-?\d[\d.eE+-]{14,})'
"""JSONPath reads numbers as floats; those of more than 15 digits are made strings before."""


@dataclass(frozen=True)
class Plausible:
    """Times outside of this are dead letters: one bad clock must not open windows without end.

    Attributes:
        earliest_ms: the first plausible ``occurred_at``; before 2000 there was no ad tracking.
        ahead_ms: how far ``occurred_at`` may lie after ``received_at``, or where a record does not
            say when it was received, after its arrival in a stream, or after ``now``. A day covers
            clocks in a wrong time zone.
    """

    earliest_ms: int = 946_684_800_000
    ahead_ms: int = DAY_MS


@dataclass(frozen=True)
class Decoded:
    """Events of one chunk (``schema.EVENT_SCHEMA``) and the records that gave none.

    ``records`` counts both: records that gave events, plus ``len(dead_letters)``.
    """

    events: pa.Table
    dead_letters: list[DeadLetter]
    records: int


@dataclass(frozen=True)
class Failure:
    """Why a record gave no event."""

    error_type: str
    message: str


def decode(
    chunk: LogChunk,
    mapping: Mapping,
    *,
    now_ms: int,
    plausible: Plausible | None = None,
    ruleset: Ruleset | None = None,
    pii: Pii | None = None,
) -> Decoded:
    """Decode a chunk of JSON lines.

    A record gives all of its events or one dead letter, whatever its neighbours are.

    Args:
        chunk: whole lines, and where they came from.
        mapping: how records become events.
        now_ms: time of processing, stamped on dead letters.
        plausible: limits of ``occurred_at``.
        ruleset: its event rules judge each event.
        pii: what becomes of addresses and users, once they are judged.
    """
    parsed = parse_lines(chunk.data, mapping.sources)
    texts = pl.DataFrame(pl.from_arrow(parsed.columns))
    offsets = np.asarray(parsed.offsets, dtype=np.int64)
    common = _provenance(chunk, offsets).with_columns(
        pl.Series("content_hash", parsed.content_hash, dtype=pl.Int64),
        pl.Series("extra", pl.from_arrow(parsed.extra), dtype=pl.String),
    )
    frames: list[pl.DataFrame] = []
    failures: dict[int, Failure] = {}
    matched = np.zeros(texts.height, dtype=bool)
    for index, event in enumerate(mapping.events):
        rows, part = _chosen(texts, event)
        matched[rows] = True
        arrived = common["arrived_at"][rows] if common["arrived_at"].count() else None
        now = now_ms if arrived is None else arrived.fill_null(now_ms)
        frame, failed = _typed(part, event, now, plausible or Plausible())
        failures = {int(rows[at]): failure for at, failure in failed.items()} | failures
        frames.append(_with_common(frame, common, rows, index))
    failures |= {int(row): _unmatched(mapping) for row in np.flatnonzero(~matched)}
    letters = [
        _dead_letter(chunk, line.offset, line.payload, now_ms, line.error_type, line.message)
        for line in parsed.rejected
    ]
    for row, failure in sorted(failures.items()):
        at = int(offsets[row])
        payload = _line_at(chunk.data, at)
        letters.append(
            _dead_letter(chunk, at, payload, now_ms, failure.error_type, failure.message)
        )
    tags = {"block": chunk.block, "sequence": str(chunk.sequence)}
    if chunk.watermark_ms is not None:
        tags[WATERMARK] = str(chunk.watermark_ms)
    events = with_tag(_assembled(frames, failures, ruleset or Ruleset(), pii or Pii()), **tags)
    return Decoded(events, letters, texts.height + len(parsed.rejected))


def _chosen(texts: pl.DataFrame, event: EventMapping) -> tuple[np.ndarray, pl.DataFrame]:
    """The rows that an event rule applies to."""
    if event.when is None:
        return np.arange(texts.height), texts
    chosen = texts[event.when.field].is_in(event.when.values).fill_null(False)
    return np.flatnonzero(chosen.to_numpy()), texts.filter(chosen)


def _unmatched(mapping: Mapping) -> Failure:
    names = {event.when.field for event in mapping.events if event.when is not None}
    message = (
        f"no [[events]] of the mapping has a 'when' that holds ({', '.join(sorted(names))}); "
        f"the record was not counted. Add one for it, or keep such records out of the input."
    )
    return Failure("no_event_rule", message)


@dataclass(frozen=True)
class _Check:
    """A way to fail: where ``failed`` is true, ``field`` is wrong, and ``why`` says what to do."""

    error_type: str
    field: str
    failed: pl.Expr
    why: str


def _raw(name: str) -> pl.Expr:
    return pl.col(f"raw {name}")


def _typed(
    texts: pl.DataFrame, event: EventMapping, now_ms: int | pl.Series, plausible: Plausible
) -> tuple[pl.DataFrame, dict[int, Failure]]:
    """Typed columns of one event rule, and the rows that fail.

    Everything is evaluated in three passes over the frame: each pass costs Polars a third of a
    millisecond, whatever its length.
    """
    fields = event.fields
    raw = texts.select(_text(rule).alias(name) for name, rule in fields.items())
    converted: list[pl.Series] = []
    for name in fields:
        if name in TIME_FIELDS:
            converted.append(columns.parse_times(raw[name], fields[name]).alias(name))
        elif name in MONEY_FIELDS:
            converted.append(columns.parse_money(raw[name], fields[name]).alias(name))
    names = [series.name for series in converted]
    kept = raw.select(pl.col(names).name.prefix("raw "))
    typed = raw.with_columns(converted)
    checks = [*_conversions(fields), *_requirements(fields)]
    both, now = typed.hstack(kept), pl.lit(now_ms if isinstance(now_ms, int) else 0)
    if isinstance(now_ms, pl.Series):
        both, now = both.with_columns(now_ms.alias("now")), pl.col("now")
    checks += [*_currency_checks(fields), *_plausibility(fields, now, plausible)]
    masks = both.select(
        check.failed.fill_null(False).alias(str(index)) for index, check in enumerate(checks)
    )
    return typed, _failures(both, masks, checks)


def _failures(both: pl.DataFrame, masks: pl.DataFrame, checks: list[_Check]) -> dict[int, Failure]:
    """Failures by row; the first check that a row fails stands."""
    failures: dict[int, Failure] = {}
    for check, mask in zip(checks, masks, strict=True):
        if mask.any():
            name = f"raw {check.field}"
            texts = both[name if name in both.columns else check.field]
            for at in mask.arg_true().to_list():
                value = texts[at]
                shown = "missing" if value is None else repr(value[:VALUE_LIMIT])
                message = f"{check.field} is {shown}; the record was not counted. {check.why}"
                failures.setdefault(at, Failure(check.error_type, message))
    return failures


def _text(rule: FieldRule) -> pl.Expr:
    """The text that a rule takes from each record; empty text counts as absent."""
    if rule.constant is not None:
        return pl.repeat(rule.constant, pl.len(), dtype=pl.String)
    value = pl.col(str(rule.source))
    if rule.path is not None:
        exact = value.str.replace_all(_STRINGS_AND_LONG_NUMBERS, '"$1$2"')
        value = exact.str.json_path_match(rule.path)
    value = pl.when(value != "").then(value)
    return value if rule.default is None else value.fill_null(rule.default)


def _conversions(fields: dict[str, FieldRule]) -> Iterator[_Check]:
    """There was text, and it could not be converted."""
    for name, rule in fields.items():
        unfit = pl.col(name).is_null()
        if name in TIME_FIELDS:
            why = f"It has to be a time as {rule.time_format}; correct it or the mapping."
            error_type = "invalid_timestamp"
        elif name in MONEY_FIELDS:
            why, error_type = _money_remedy(rule), "invalid_money"
            limited = pl.col(name).is_between(-MONEY_LIMIT_MICROS, MONEY_LIMIT_MICROS)
            unfit = ~limited.fill_null(False)
        else:
            continue
        yield _Check(error_type, name, _raw(name).is_not_null() & unfit, why)


def _money_remedy(rule: FieldRule) -> str:
    limit = f"of at most {MONEY_LIMIT_MICROS:,}"
    if rule.micros_per_unit == 1:
        return f"It has to be a whole number of micros {limit}; a mapping can convert other units."
    return (
        f"Times {rule.micros_per_unit} it has to be a whole number of micros {limit}; "
        f"rounding = 'half_even' in the mapping allows fractions."
    )


def _requirements(fields: dict[str, FieldRule]) -> Iterator[_Check]:
    for name in ("event_type", "advertiser_id"):
        yield _Check("missing_field", name, pl.col(name).is_null(), "It is required.")
    yield _Check("missing_field", "occurred_at", _raw("occurred_at").is_null(), "It is required.")
    if fields["event_type"].constant is None:
        known = pl.col("event_type").is_in(list(schema.EVENT_TYPES))
        why = f"It has to be one of {', '.join(schema.EVENT_TYPES)}."
        yield _Check("unknown_event_type", "event_type", ~known, why)


def _currency_checks(fields: dict[str, FieldRule]) -> Iterator[_Check]:
    has_currency = "currency" in fields
    if has_currency:
        malformed = ~pl.col("currency").str.contains(r"^[A-Z]{3}$")
        yield _Check("invalid_currency", "currency", malformed, "It has to be ISO 4217.")
    for name in MONEY_FIELDS:
        if name in fields:
            orphan = pl.col(name) != 0
            if has_currency:
                orphan = orphan & pl.col("currency").is_null()
            why = f"{name} is not zero, and its currency is missing: sums never cross currencies."
            field = "currency" if has_currency else name
            yield _Check("missing_currency", field, orphan, why)


def _plausibility(
    fields: dict[str, FieldRule], now: pl.Expr, plausible: Plausible
) -> Iterator[_Check]:
    occurred, received = pl.col("occurred_at"), now
    if "received_at" in fields:  # which is often the clock of the machine that got it wrong
        received = pl.col("received_at")
        ahead = received > now + plausible.ahead_ms
        why = "It is implausible: more than a day after now; check the clock, or its time format."
        yield _Check("implausible_time", "received_at", ahead, why)
        received = received.fill_null(now)
    wrong = (occurred < plausible.earliest_ms) | (occurred > received + plausible.ahead_ms)
    why = (
        "It is implausible: before the year 2000, or more than a day after it was received; "
        "check the clock, or the time format of the mapping."
    )
    yield _Check("implausible_time", "occurred_at", wrong, why)


def _provenance(chunk: LogChunk, offsets: np.ndarray) -> pl.DataFrame:
    """``source``, ``position`` and ``arrived_at`` (ms) of each line."""
    starts = np.array([segment.chunk_offset for segment in chunk.segments], dtype=np.int64)
    bases = np.array([segment.source_offset for segment in chunk.segments], dtype=np.int64)
    index = np.searchsorted(starts, offsets, side="right") - 1
    names = pl.Series([segment.source for segment in chunk.segments], dtype=pl.String)
    arrived = pl.Series([segment.arrived_ms for segment in chunk.segments], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "source": names.gather(index.astype(np.uint32)),
            "position": offsets - starts[index] + bases[index] if len(offsets) else offsets,
            "arrived_at": arrived.gather(index.astype(np.uint32)),
        },
        schema={"source": pl.String, "position": pl.Int64, "arrived_at": pl.Int64},
    )


def _with_common(
    frame: pl.DataFrame, common: pl.DataFrame, rows: np.ndarray, index: int
) -> pl.DataFrame:
    part = common if len(rows) == common.height else common[rows]
    return frame.hstack(part).with_columns(
        pl.lit(index, pl.Int32).alias("record_index"), pl.Series("row", rows, dtype=pl.Int64)
    )


def _assembled(
    frames: Iterable[pl.DataFrame], failures: dict[int, Failure], ruleset: Ruleset, pii: Pii
) -> pa.Table:
    """All events of the chunk in ``EVENT_SCHEMA``; failed records are left out whole."""
    parts = []
    for frame in frames:
        good = frame
        if failures:
            keep = np.ones(frame.height, dtype=bool)
            keep[np.isin(frame["row"].to_numpy(), list(failures))] = False
            good = frame.filter(pl.Series(keep))
        missing = [
            pl.lit(None, pl.Int64 if name in MONEY_FIELDS + TIME_FIELDS else pl.String).alias(name)
            for name in schema.DECODED_FIELDS
            if name not in good.columns
        ]
        parts.append(_with_event_id(good.with_columns(missing)))
    names = [name for name in schema.EVENT_SCHEMA.names if name != "ivt_reasons"]
    frame = pl.concat([part.select(names) for part in parts])
    frame = frame.with_columns(ruleset.judge_events(frame, mark_allowed=not pii.plain))
    frame = pii.stored(frame)
    times = [
        pl.col(name).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
        for name in (*TIME_FIELDS, "arrived_at")
    ]
    table = frame.with_columns(times).to_arrow(compat_level=pl.CompatLevel.newest())
    return table.cast(schema.EVENT_SCHEMA)


def _with_event_id(frame: pl.DataFrame) -> pl.DataFrame:
    """Derive ids where the record has none: a hash of where it came from, so a replay agrees."""
    if not frame["event_id"].null_count():
        return frame
    place = pl.concat_str(
        "source", pl.lit("@"), pl.col("position"), pl.lit("#"), pl.col("record_index")
    )
    derived = frame.filter(pl.col("event_id").is_null()).select(place.alias("place"))
    hashes = derived.select(plh.col("place").nchash.xxh3_128())["place"]
    ids = pl.Series([f"{value:032x}" for value in hashes.to_list()], dtype=pl.String)
    empty = frame["event_id"].is_null().arg_true()
    return frame.with_columns(frame["event_id"].scatter(empty, ids))


def _line_at(data: bytes, offset: int) -> bytes:
    end = data.find(b"\n", offset)
    return data[offset : end if end >= 0 else len(data)].removesuffix(b"\r")


def _dead_letter(
    chunk: LogChunk, offset: int, payload: bytes, now_ms: int, error_type: str, message: str
) -> DeadLetter:
    at = np.searchsorted([s.chunk_offset for s in chunk.segments], offset, side="right") - 1
    segment = chunk.segments[int(at)]
    return DeadLetter.of(
        failed_at=now_ms,
        stage="decode",
        error_type=error_type,
        message=message,
        source=segment.source,
        position=str(offset - segment.chunk_offset + segment.source_offset),
        payload=payload,
    )
