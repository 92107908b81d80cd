"""``RaiseAlerts``: what each pane says, compared with what receivers were told before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindows

from adtally.transforms.alert_records import Record, Row, count_kinds
from adtally.transforms.alert_rows import anomaly_rows, flag_rows, quota_rows, verdict_rows
from adtally.transforms.alerts import AlertSpec, Memory, compare
from adtally.transforms.tally_windows import FLAGS, SUMMARIES, Counters, shard_of

Keyed = tuple[int, bytes]


Batch = list[tuple[str, bytes]]
"""Records of one pane: for each its advertiser and its JSON, in the order to tell them."""


@dataclass
class RaiseAlerts(beam.PTransform):
    """Panes to a ``Batch`` of records each, as they fire.

    The input is tables by name: ``flags`` and ``summaries`` of base windows, and ``verdicts`` and
    ``anomalies`` where there are any.

    What was told is the runner's state of a shard and a window: it is saved and restored with the
    rest, and cleared when the window expires. So a bundle that is run again gives the same records.
    Keyed by shard like the tally, because each access to state costs milliseconds, and a shard's
    pane has all of its advertisers.

    Attributes:
        spec: what is told.
        window_ms: length of a base window.
    """

    spec: AlertSpec
    window_ms: int

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, panes: Mapping[str, Any]) -> Any:
        base = [self._rows("Flags", panes[FLAGS], flag_rows)]
        if self.spec.quotas:
            base.append(self._rows("Quotas", panes[SUMMARIES], quota_rows, self.spec.quotas))
        told = [self._compared("Base", base | "AllBase" >> beam.Flatten())]
        for name, rows in (("verdicts", verdict_rows), ("anomalies", anomaly_rows)):
            if name in panes:
                label = name.capitalize()
                told.append(
                    self._compared(label, self._rows(label, panes[name], rows, self.window_ms))
                )
        return told | "All" >> beam.Flatten()

    def _rows(self, label: str, tables: Any, rows: Callable[..., list[Row]], *more: Any) -> Any:
        return tables | f"Rows{label}" >> beam.ParDo(_Rows(rows, *more)).with_output_types(Keyed)

    def _compared(self, label: str, rows: Any) -> Any:
        compared = rows | f"Compare{label}" >> (
            beam.ParDo(_Compare(self.spec)).with_output_types(Batch)
        )
        return compared | f"Unwindow{label}" >> beam.WindowInto(GlobalWindows())


class _Rows(beam.DoFn):
    """Rows of a table, serialised, with its shard."""

    def __init__(self, rows: Callable[..., list[Row]], *more: Any) -> None:
        self._rows = rows
        self._more = more

    def process(self, table: pa.Table) -> Iterator[Keyed]:
        rows = self._rows(table, *self._more)
        if rows:
            yield shard_of(table), msgspec.msgpack.encode(rows)


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
        memory = memories.setdefault(f"{row.source} {row.advertiser_id}", Memory())
        most = memory.suppressed_most
        records = compare(memory, row, self._spec)
        self._count.add("alerts_suppressed", memory.suppressed_most - most)
        for name, count in count_kinds(records).items():
            self._count.add(name, count)
        return records
