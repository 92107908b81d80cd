"""Records to events: one schema, whole chunks at a time, every record accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa

from adtally.io import schema
from adtally.io.arrow import with_tag
from adtally.io.dead_letters import DeadLetter, writable
from adtally.io.limits import Limits
from adtally.io.read_logs import LogChunk
from adtally.transforms import columns
from adtally.transforms.decode_checks import (
    Failure,
    Plausible,
    checks_of,
    failures_of,
    unclean,
    unmatched,
)
from adtally.transforms.decode_letters import Dead, Letters, parts_of
from adtally.transforms.json_lines import parse_lines
from adtally.transforms.json_scan import suspects
from adtally.transforms.mapping import (
    MONEY_FIELDS,
    TIME_FIELDS,
    EventMapping,
    FieldRule,
    Mapping,
)
from adtally.transforms.pii import Pii
from adtally.transforms.rules.ruleset import Ruleset

WATERMARK: Final = "watermark"
"""Tag of a table, in milliseconds: see :class:`adtally.io.read_logs.LogChunk`."""

_STRINGS_AND_LONG_NUMBERS: Final = r'"((?:[^"\\]|\\.)*)"|(-?\d[\d.eE+-]{14,})'
"""JSONPath reads numbers as floats; those of more than 15 digits are made strings before."""


@dataclass(frozen=True)
class Decoded:
    """Events of one chunk (``schema.EVENT_SCHEMA``) and the records that gave none.

    Attributes:
        events: what was decoded.
        dead_letters: one for each record that gave none, but for those without.
        records: that gave events, plus ``dead``.
        dead: records that gave none.
        without_letter: dead records that share the last letter, as there were too many.
        over_limit: dead records that exceed one of the limits of records.
    """

    events: pa.Table
    dead_letters: list[DeadLetter]
    records: int
    dead: int
    without_letter: int = 0
    over_limit: int = 0


def decode(
    chunk: LogChunk,
    mapping: Mapping,
    *,
    now_ms: int,
    plausible: Plausible | None = None,
    ruleset: Ruleset | None = None,
    pii: Pii | None = None,
    limits: Limits | None = None,
) -> Decoded:
    """Decode a chunk of JSON lines.

    A record gives all of its events or one dead letter, whatever its neighbours are. Only where
    more than ``limits.letters`` of a chunk are dead, the rest shares one letter that counts them.

    Args:
        chunk: whole lines, and where they came from.
        mapping: how records become events.
        now_ms: time of processing, stamped on dead letters.
        plausible: limits of ``occurred_at``.
        ruleset: its event rules judge each event.
        pii: what becomes of addresses and users, once they are judged.
        limits: of records.
    """
    limits = limits or Limits()
    letters = Letters(now_ms, limits.letters(len(chunk.data)))
    tables, records = [], 0
    for part in parts_of(chunk):
        frames, dead, count = _decode_part(part, mapping, now_ms, plausible, limits)
        records += count
        letters.add(part, dead)
        failed = {entry.row for entry in dead if entry.row >= 0}
        tables.append(_assembled(frames, failed, ruleset or Ruleset(), pii or Pii()))
    tags = {"block": chunk.block, "sequence": str(chunk.sequence)}
    if chunk.watermark_ms is not None:
        tags[WATERMARK] = str(chunk.watermark_ms)
    events = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    return Decoded(
        with_tag(events, **tags),
        letters.written(),
        records,
        letters.dead,
        letters.without,
        letters.over_limit,
    )


def _decode_part(
    chunk: LogChunk,
    mapping: Mapping,
    now_ms: int,
    plausible: Plausible | None,
    limits: Limits,
) -> tuple[list[pl.DataFrame], list[Dead], int]:
    """Events of each rule, with the rows of dead records still in; the dead; how many records."""
    cut = {line.chunk_offset: line.line_bytes for line in chunk.cut}
    parsed = parse_lines(chunk.data, mapping.sources, limits=limits, cut=cut)
    texts = pl.DataFrame(pl.from_arrow(parsed.columns))
    offsets = np.asarray(parsed.offsets, dtype=np.int64)
    common = _provenance(chunk, offsets).with_columns(
        pl.Series("content_hash", parsed.content_hash, dtype=pl.Int64),
        pl.Series("extra", pl.from_arrow(parsed.extra), dtype=pl.String),
    )
    suspect = None if limits.id_controls else suspects(chunk.data, offsets)
    frames: list[pl.DataFrame] = []
    failures: dict[int, Failure] = {}
    matched = np.zeros(texts.height, dtype=bool)
    for index, event in enumerate(mapping.events):
        rows, part = _chosen(texts, event)
        matched[rows] = True
        arrived = common["arrived_at"][rows] if common["arrived_at"].count() else None
        now = now_ms if arrived is None else arrived.fill_null(now_ms)
        frame, failed = _typed(part, event, now, plausible or Plausible(), limits)
        if suspect is not None:
            failed |= unclean(frame, event.fields, np.flatnonzero(suspect[rows]), failed)
        failures = {int(rows[at]): failure for at, failure in failed.items()} | failures
        frames.append(_with_common(frame, common, rows, index))
    without_rule = unmatched(mapping)
    failures |= {int(row): without_rule for row in np.flatnonzero(~matched)}
    dead = [
        Dead(line.offset, line.error_type, line.message, line.payload) for line in parsed.rejected
    ]
    dead += [
        Dead(int(offsets[row]), failure.error_type, failure.message, row=row)
        for row, failure in sorted(failures.items())
    ]
    return frames, dead, texts.height + len(parsed.rejected)


def _chosen(texts: pl.DataFrame, event: EventMapping) -> tuple[np.ndarray, pl.DataFrame]:
    """The rows that an event rule applies to."""
    if event.when is None:
        return np.arange(texts.height), texts
    chosen = texts[event.when.field].is_in(event.when.values).fill_null(False)
    return np.flatnonzero(chosen.to_numpy()), texts.filter(chosen)


def _typed(
    texts: pl.DataFrame,
    event: EventMapping,
    now_ms: int | pl.Series,
    plausible: Plausible,
    limits: Limits,
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
    both, now = typed.hstack(kept), pl.lit(now_ms if isinstance(now_ms, int) else 0)
    if isinstance(now_ms, pl.Series):
        both, now = both.with_columns(now_ms.alias("now")), pl.col("now")
    checks = checks_of(fields, now, plausible, limits)
    masks = both.select(
        check.failed.fill_null(False).alias(str(index)) for index, check in enumerate(checks)
    )
    return typed, failures_of(both, masks, checks)


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


def _provenance(chunk: LogChunk, offsets: np.ndarray) -> pl.DataFrame:
    """``source``, ``position`` and ``arrived_at`` (ms) of each line."""
    starts = np.array([segment.chunk_offset for segment in chunk.segments], dtype=np.int64)
    bases = np.array([segment.source_offset for segment in chunk.segments], dtype=np.int64)
    index = np.searchsorted(starts, offsets, side="right") - 1
    names = pl.Series([writable(one.source) for one in chunk.segments], dtype=pl.String)
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
    frames: Iterable[pl.DataFrame], failures: Collection[int], ruleset: Ruleset, pii: Pii
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
