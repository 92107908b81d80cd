"""``RaiseAlerts``: what each pane says, compared with what receivers were told before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import msgspec
import polars as pl
import pyarrow as pa
import xxhash
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from adtally.transforms.alerts import (
    AlertSpec,
    Memory,
    Record,
    Row,
    Verdict,
    compare,
    count_kinds,
)
from adtally.transforms.rules.quotas import Quotas
from adtally.transforms.tally_windows import FLAGS, SUMMARIES, Counters, shard_of

Keyed = tuple[int, bytes]


Batch = list[tuple[str, bytes]]
"""Records of one pane: for each its advertiser and its JSON, in the order to tell them."""

MOST_CHARACTERS: Final = 1_000
"""Of a name in a record: a longer one, which no sane producer gives, is cut and hashed, lest a
record be longer than a sink takes and hold the stream up for ever."""


@dataclass
class RaiseAlerts(beam.PTransform):
    """Panes of ``{"flags": ..., "summaries": ...}`` to a ``Batch`` of records, as they fire.

    What was told is the runner's state of a shard and a window: it is saved and restored with the
    rest, and cleared when the window expires. So a bundle that is run again gives the same records.
    Keyed by shard like the tally, because each access to state costs milliseconds, and a shard's
    pane has all of its advertisers.
    """

    spec: AlertSpec

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, panes: Mapping[str, Any]) -> Any:
        told = [panes[FLAGS] | "Flags" >> beam.Map(_flags).with_output_types(Keyed)]
        if self.spec.quotas:
            told.append(
                panes[SUMMARIES]
                | "Quotas" >> beam.FlatMap(_quotas, self.spec.quotas).with_output_types(Keyed)
            )
        return (
            told
            | "All" >> beam.Flatten()
            | "Compare" >> beam.ParDo(_Compare(self.spec)).with_output_types(Batch)
        )


def _flags(flags: pa.Table) -> Keyed:
    return shard_of(flags), msgspec.msgpack.encode(flag_rows(flags))


def _quotas(summaries: pa.Table, quotas: Quotas) -> Iterator[Keyed]:
    rows = quota_rows(summaries, quotas)
    if rows:
        yield shard_of(summaries), msgspec.msgpack.encode(rows)


def flag_rows(flags: pa.Table) -> list[Row]:
    """Rows of ``schema.FLAG_SCHEMA``."""
    frame = pl.DataFrame(pl.from_arrow(flags.replace_schema_metadata(None)))
    times = frame.with_columns(pl.col("window_start", "window_end").dt.epoch("ms"))
    return [
        Row(
            short(row["advertiser_id"]),
            row["window_start"],
            row["window_end"],
            row["version"],
            [_verdict(flag) for flag in row["flags"]],
            row["ruleset_version"],
        )
        for row in times.iter_rows(named=True)
    ]


def _verdict(flag: dict[str, Any]) -> Verdict:
    evidence = [short(name) for name in flag["evidence"]]
    return Verdict(**{**flag, "subject": short(flag["subject"]), "evidence": evidence})


def short(name: str) -> str:
    """A name as it is, or its beginning and a hash of all of it."""
    if len(name) <= MOST_CHARACTERS:
        return name
    return f"{name[:MOST_CHARACTERS]}…{xxhash.xxh3_128_hexdigest(name.encode())}"


def quota_rows(summaries: pa.Table, quotas: Quotas) -> list[Row]:
    """A row for each advertiser and window that exceeds a quota."""
    frame = pl.DataFrame(pl.from_arrow(summaries.replace_schema_metadata(None)))
    rows: dict[tuple[str, int], Row] = {}
    times = quotas.exceeded(frame).with_columns(pl.col("window_start", "window_end").dt.epoch("ms"))
    for one in times.iter_rows(named=True):
        advertiser, start = short(one["advertiser_id"]), one["window_start"]
        row = Row(advertiser, start, one["window_end"], one["version"], [], quota=True)
        verdict = Verdict(
            rule=f"quota_{one['measure']}",
            ivt_class="",
            subject_type="advertiser",
            subject=advertiser,
            count=one["count"],
            threshold=one["threshold"],
        )
        rows.setdefault((advertiser, start), row).verdicts.append(verdict)
    return list(rows.values())


class _Compare(beam.DoFn):
    TOLD = ReadModifyWriteStateSpec("told", BytesCoder())

    def __init__(self, spec: AlertSpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        self._count = Counters()

    def process(
        self,
        element: Keyed,
        told: Any = beam.DoFn.StateParam(TOLD),  # noqa: B008
    ) -> Iterator[Batch]:
        rows = msgspec.msgpack.decode(element[1], type=list[Row])
        known = told.read()
        memories = msgspec.msgpack.decode(known, type=dict[str, Memory]) if known else {}
        records: list[Record] = []
        for row in rows:
            records += self._told(memories, row)
        told.write(msgspec.msgpack.encode(memories))
        if records:
            yield [(record.advertiser_id, record.to_json()) for record in records]

    def _told(self, memories: dict[str, Memory], row: Row) -> list[Record]:
        # Rows of quotas say nothing of flags: the two are not compared with each other.
        name = f"{'quota' if row.quota else 'flags'} {row.advertiser_id}"
        memory = memories.setdefault(name, Memory())
        most = memory.suppressed_most
        records = compare(memory, row, self._spec)
        self._count.add("alerts_suppressed", memory.suppressed_most - most)
        for name, count in count_kinds(records).items():
            self._count.add(name, count)
        return records
