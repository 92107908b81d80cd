"""Fuzzing: payloads through the decoder as production calls it, every one accounted for.

``make fuzz`` runs a million; :mod:`tests.fuzz_guided` lets coverage guide it.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.io.dead_letters import DeadLetter, decode_lines, encode_lines
from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.elasticsearch_sink import documents
from adtally.io.flush import table_pieces
from adtally.io.limits import Limits
from adtally.io.parquet import LogWriter
from adtally.io.read_logs import LogChunk, Segment
from adtally.transforms.alert_rows import flag_rows, verdict_rows
from adtally.transforms.anomalies import judge_series, series_of
from adtally.transforms.decode import Decoded, decode
from adtally.transforms.mapping import Mapping, identity_mapping, load_mapping, parse_mapping
from adtally.transforms.pii import Pii
from adtally.transforms.rollup import roll_up
from adtally.transforms.rules.ruleset import Ruleset
from adtally.transforms.slices import HistoryCut, SliceSpec, slice_events
from adtally.transforms.tally import TallySpec, tally
from adtally.transforms.verdicts import VerdictSpec, judge_history
from tests.fuzz_judge import IDS, TEXTS, Loose, Unsure, judge
from tests.fuzz_payloads import (
    NESTED_MAPPING,
    NOW_MS,
    Record,
    nested_record,
    own_record,
    payloads,
    talkingdata_record,
)

TALKINGDATA: Final = Path(__file__).parents[1] / "pipelines" / "mappings" / "talkingdata.toml"
MINUTE: Final = 60_000
LIMITS: Final = Limits()
DIMENSIONS: Final = ("campaign_id", "country")
ALONE: Final = 20
"""Batches of so many payloads at most are decoded one by one as well."""

_ES: Final = ElasticsearchConfig(urls=("http://localhost:9200",))
_COMPARED: Final = (*IDS, *TEXTS, "event_type", "cost_micros", "revenue_micros")


class Unaccounted(AssertionError):
    """A payload that was lost, doubled, or judged in another way than it should be."""


@dataclass(frozen=True)
class Way:
    """A mapping and the records that it is for."""

    name: str
    mapping: Mapping
    record: Callable[[random.Random], Record]
    judged: bool = False
    pii: Pii = Pii()


def ways() -> list[Way]:
    """The mappings, and ways to store addresses and users, that are fuzzed."""
    key = Path(tempfile.mkdtemp(prefix="adtally-fuzz-")) / "key"
    key.write_text("00" * 32)
    return [
        Way("own", identity_mapping(), own_record, judged=True),
        Way("talkingdata", load_mapping(TALKINGDATA), talkingdata_record, pii=Pii("truncate")),
        Way("nested", parse_mapping(NESTED_MAPPING), nested_record, pii=Pii.hashed(str(key))),
    ]


@dataclass
class Count:
    """What became of payloads."""

    payloads: int = 0
    events: int = 0
    blank: int = 0
    unsure: int = 0
    dead: collections.Counter[str] = field(default_factory=collections.Counter)
    batches_to_the_end: int = 0

    def add(self, other: Count) -> None:
        self.payloads += other.payloads
        self.events += other.events
        self.blank += other.blank
        self.unsure += other.unsure
        self.dead += other.dead
        self.batches_to_the_end += other.batches_to_the_end


def fuzz_batch(lines: Sequence[bytes], way: Way, *, to_the_end: str = "", judged: int = 1) -> Count:
    """Decode a batch, and hold what comes out against what went in.

    Args:
        lines: payloads without line feeds.
        way: the mapping.
        to_the_end: a folder: the events go on into files, windows and documents there.
        judged: every so many payloads are held against the oracle.

    Raises:
        Unaccounted: with the payload.
    """
    chunk = LogChunk("fuzz", 0, b"".join(line + b"\n" for line in lines), [])
    offsets, at = [], 0
    for number, line in enumerate(lines):  # each with an address of its own, as in a stream
        chunk.segments.append(Segment(at, f"fuzz://{number}", 0, NOW_MS if number % 2 else None))
        offsets.append(at)
        at += len(line) + 1
    decoded = decode(
        chunk, way.mapping, now_ms=NOW_MS, ruleset=Ruleset(), pii=way.pii, limits=LIMITS
    )
    if len(lines) <= ALONE:
        _alone(chunk, decoded, way)
    count = _account(lines, decoded)
    if way.judged:
        count.unsure = _hold_against_judge(lines, decoded, judged)
    _check_events(decoded.events)
    _check_letters(lines, decoded.dead_letters)
    if to_the_end:
        go_on(decoded.events, to_the_end)
        count.batches_to_the_end = 1
    return count


def _alone(chunk: LogChunk, decoded: Decoded, way: Way) -> None:
    """What becomes of a record hangs on it alone, and not on its neighbours."""
    events, letters = [], []
    ends = [*(segment.chunk_offset for segment in chunk.segments[1:]), len(chunk.data)]
    for segment, end in zip(chunk.segments, ends, strict=True):
        data = chunk.data[segment.chunk_offset : end]
        own = LogChunk("fuzz", 0, data, [replace(segment, chunk_offset=0)])
        one = decode(own, way.mapping, now_ms=NOW_MS, ruleset=Ruleset(), pii=way.pii, limits=LIMITS)
        events.append(one.events)
        letters += one.dead_letters
    together, apart = (
        sorted(table.to_pylist(), key=lambda row: (row["source"], row["record_index"]))
        for table in (decoded.events, pa.concat_tables(events))
    )
    if together != apart:
        raise Unaccounted(f"neighbours matter: {chunk.data[:4000]!r}")
    letters.sort(key=lambda one: one.source)
    if letters != sorted(decoded.dead_letters, key=lambda one: one.source):
        raise Unaccounted(f"neighbours matter to letters: {chunk.data[:4000]!r}")


def _account(lines: Sequence[bytes], decoded: Decoded) -> Count:
    """Every payload is blank, gives events, or one dead letter."""
    given = {int(source[7:]) for source in decoded.events["source"].to_pylist()}
    dead = [int(letter.source[7:]) for letter in decoded.dead_letters]
    blank = [number for number, line in enumerate(lines) if line.isspace() or not line]
    places = [*given, *dead, *blank]
    if sorted(places) != list(range(len(lines))):
        twice = [place for place, times in collections.Counter(places).items() if times > 1]
        lost = sorted(set(range(len(lines))) - set(places))
        raise Unaccounted(
            f"lost {[lines[n] for n in lost[:3]]}, twice {[lines[n] for n in twice[:3]]}"
        )
    if decoded.records != len(lines) - len(blank) or decoded.dead != len(dead):
        raise Unaccounted(f"{decoded.records} records, {decoded.dead} dead, of {len(lines)} lines")
    keys = [decoded.events[name].to_pylist() for name in ("source", "position", "record_index")]
    if len(set(zip(*keys, strict=True))) != decoded.events.num_rows:
        raise Unaccounted("an event twice")
    kinds = collections.Counter(letter.error_type for letter in decoded.dead_letters)
    return Count(len(lines), decoded.events.num_rows, len(blank), dead=kinds)


def _hold_against_judge(lines: Sequence[bytes], decoded: Decoded, every: int) -> int:
    """Compare with the oracle; returns how often it does not know."""
    rows = {row["source"]: row for row in decoded.events.select(["source", *_COMPARED]).to_pylist()}
    times = decoded.events.select(["source"]).append_column(
        "at", pl.Series(pl.from_arrow(decoded.events["occurred_at"])).dt.epoch("ms").to_arrow()
    )
    at_ms = dict(zip(*times.to_pydict().values(), strict=True))
    unsure = 0
    for number in range(0, len(lines), every):
        line, source = lines[number], f"fuzz://{number}"
        try:
            wanted = judge(line)
        except Unsure:
            unsure += 1
            continue
        row = rows.get(source)
        if isinstance(wanted, dict) != (row is not None):
            raise Unaccounted(f"the oracle says {wanted!r}, decoded {row!r}: {line[:2000]!r}")
        if isinstance(wanted, dict) and row is not None:
            derived = {"event_id"} if wanted["event_id"] is None else set()
            wrong = {
                name: (row[name], wanted[name])
                for name in _COMPARED
                if name not in derived and row[name] != wanted[name]
                if not isinstance(wanted[name], Loose)
            }
            if wrong or at_ms[source] != wanted["occurred_at"]:
                raise Unaccounted(f"values differ {wrong} {at_ms[source]}: {line[:2000]!r}")
    return unsure


def _check_events(events: pa.Table) -> None:
    """What later steps rely on."""
    if events.schema.remove_metadata() != schema.EVENT_SCHEMA:
        raise Unaccounted(f"schema {events.schema}")
    events.validate(full=True)
    for name in IDS:
        texts = pl.Series(pl.from_arrow(events[name]))
        if (texts.str.len_bytes() > LIMITS.id_bytes).any():
            raise Unaccounted(f"{name} is longer than {LIMITS.id_bytes} bytes")
    for name in ("event_id", "advertiser_id", "event_type", "occurred_at", "source"):
        if events[name].null_count:
            raise Unaccounted(f"{name} is null")
    occurred = pl.Series(pl.from_arrow(events["occurred_at"])).dt.epoch("ms")
    if not occurred.is_between(946_684_800_000, NOW_MS + 2 * 86_400_000).all():
        raise Unaccounted("a time outside of its limits")
    for name in ("cost_micros", "revenue_micros"):
        if not pl.Series(pl.from_arrow(events[name])).drop_nulls().abs().le(10**16).all():
            raise Unaccounted("money outside of its limits")


def _check_letters(lines: Sequence[bytes], letters: list[DeadLetter]) -> None:
    """A letter is readable, says why, and holds its payload byte for byte."""
    back = list(decode_lines(encode_lines(letters))) if letters else []
    if back != letters:
        raise Unaccounted("letters do not survive being written")
    for letter in letters:
        line = lines[int(letter.source[7:])]
        if letter.payload_bytes() != line.removesuffix(b"\r") or not letter.message:
            raise Unaccounted(f"the letter of {line[:200]!r} holds {letter.payload[:200]!r}")
        if any(sign < " " for sign in letter.error_type + letter.position):
            raise Unaccounted(f"control characters in {letter}")


def go_on(events: pa.Table, folder: str) -> None:
    """What a run does with events after decoding: nothing that was accepted may break it."""
    writer = LogWriter(folder)
    writer.write(events, "fuzz", "0")
    writer.close()
    for piece in table_pieces(events):
        if not piece:
            raise Unaccounted("an empty piece")
    cut = HistoryCut(60 * MINUTE, 60 * MINUTE)
    spec = SliceSpec(
        *(MINUTE, 60 * MINUTE, 60 * MINUTE, DIMENSIONS),
        keep_position=True,
        history=cut,
        allow=Ruleset(),
    )
    judging = VerdictSpec(TallySpec(MINUTE, 60 * MINUTE, DIMENSIONS), cut, keep_empty=True)
    sliced = slice_events(events, spec, None)
    by_shard: dict[int, list[pa.Table]] = {}
    context: dict[int, list[pa.Table]] = {}
    for kept, parts in ((by_shard, sliced.slices), (context, sliced.context)):
        for one in parts:
            kept.setdefault(one.shard, []).append(one.table)
    counted = 0
    for shard, tables in by_shard.items():
        verdicts = judge_history(tables, context.get(shard, []), judging)
        done = tally(tables, TallySpec(MINUTE, 60 * MINUTE, DIMENSIONS))
        names = ("impressions", "clicks", "conversions", "duplicates")
        counted += sum(sum(done.summaries[name].to_pylist()) for name in names)
        series = series_of(done.summaries).to_arrow(compat_level=pl.CompatLevel.oldest())
        rolled = roll_up([done.summaries], 60 * MINUTE, 0, DIMENSIONS)
        for table, kind in (
            (done.summaries, "summaries"),
            (rolled, "summaries"),
            (done.flags, "flags"),
            (verdicts, "verdicts"),
            (judge_series([series], 0, judging), "anomalies"),
        ):
            for document in documents(table, kind, _ES, NOW_MS):
                if b"\n" in document.action + document.body:
                    raise Unaccounted(f"a document on two lines: {document!r}")
        for row in [*flag_rows(done.flags), *verdict_rows(verdicts, MINUTE)]:
            if len(row.advertiser_id.encode()) > LIMITS.id_bytes:
                raise Unaccounted("an alert about an endless id")
    late = sliced.late.num_rows
    if counted + late != events.num_rows:
        raise Unaccounted(f"{counted} counted and {late} late of {events.num_rows} events")


def batches(count: int, seed: int, way: Way) -> Iterator[list[bytes]]:
    """Payloads in batches of random sizes, as sources give them."""
    draw = random.Random(seed)
    batch: list[bytes] = []
    size = 1
    for line in payloads(seed, count, way.record):
        batch.append(line)
        if len(batch) >= size:
            yield batch
            batch, size = [], draw.choice((1, 3, 20, 500, 2_000, 5_000))
    if batch:
        yield batch


def fuzz(
    count: int, seed: int, folder: str, *, end_every: int = 5, judged: int = 1
) -> dict[str, Count]:
    """Fuzz all ways with ``count`` payloads in all; half are in the schema's own names."""
    totals = {}
    for way in ways():
        total = totals[way.name] = Count()
        for number, batch in enumerate(batches(count // (2 if way.judged else 4), seed, way)):
            end = f"{folder}/{way.name}-{number}" if number % end_every == 0 else ""
            total.add(fuzz_batch(batch, way, to_the_end=end, judged=judged))
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--folder", default="/tmp/adtally-fuzz")
    given = parser.parse_args()
    began = time.monotonic()
    for name, total in fuzz(given.count, given.seed, given.folder).items():
        print(f"{name}: {total}", flush=True)
    seconds = datetime.timedelta(seconds=round(time.monotonic() - began))
    print(f"{given.count:,} payloads, seed {given.seed}, {seconds}: no crash, all accounted for")


if __name__ == "__main__":
    main()
