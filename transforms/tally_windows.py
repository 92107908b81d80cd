"""Slice, tally and roll up, as transforms: the windows and triggers are Beam's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from adtally.io.arrow import from_ipc, tag, to_ipc, with_tag
from adtally.io.sources import NAMESPACE
from adtally.io.spill import Spill, take
from adtally.transforms.rollup import roll_up
from adtally.transforms.slices import SliceSpec, slice_events
from adtally.transforms.tally import TallySpec, tally
from adtally.transforms.windows import Ranges, within

SLICES: Final = "slices"
LATE: Final = "late"
SUMMARIES: Final = "summaries"
FLAGS: Final = "flags"


@dataclass(frozen=True)
class Windowing:
    """When windows are computed: the only place where streaming and batch differ.

    In batch nothing is early or late, so Beam's window is coarse (a day) and the tally computes
    every base window inside: groups cost the runner 5 to 7 ms each.

    Attributes:
        beam_window_ms: length of Beam's fixed windows, a multiple of what is computed inside.
        trigger: when a window's pane is computed.
        accumulation_mode: whether later panes hold the earlier events too.
        allowed_lateness_ms: how long Beam keeps a window's state after its end.
    """

    beam_window_ms: int
    trigger: trigger.TriggerFn
    accumulation_mode: Any
    allowed_lateness_ms: int

    @classmethod
    def batch(cls, beam_window_ms: int) -> Windowing:
        """Each window once, when all input has been read."""
        return cls(beam_window_ms, trigger.DefaultTrigger(), trigger.AccumulationMode.DISCARDING, 0)

    def into(self) -> beam.WindowInto:
        """Beam's window transform for this."""
        return beam.WindowInto(
            FixedWindows(self.beam_window_ms / 1000),
            trigger=self.trigger,
            accumulation_mode=self.accumulation_mode,
            allowed_lateness=self.allowed_lateness_ms / 1000,
        )


@dataclass
class SliceByWindow(beam.PTransform):
    """Cut batches of events into slices; outputs ``slices`` and ``late``.

    A slice is ``(shard, bytes)``, lies in exactly one of Beam's windows, and has a timestamp
    inside it. It is serialised here and not by a coder, because the DirectRunner decodes and
    encodes what it groups once more. Late events come as tables with their ``window_start``.

    Attributes:
        spec: how to cut.
        spill_folder: where slices wait on this machine, see :mod:`adtally.io.spill`; empty to
            send them through the runner.
    """

    spec: SliceSpec
    spill_folder: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, events: Any) -> Any:
        return events | "Slice" >> beam.ParDo(_Slice(self.spec, self.spill_folder)).with_outputs(
            LATE, main=SLICES
        ).with_output_types(tuple[int, bytes])


class _Slice(beam.DoFn):
    def __init__(self, spec: SliceSpec, spill_folder: str) -> None:
        self._spec = spec
        self._spill_folder = spill_folder

    def setup(self) -> None:
        self._spill = Spill(self._spill_folder)
        self._late = Metrics.counter(NAMESPACE, "events_late")
        self._outside = Metrics.counter(NAMESPACE, "events_out_of_range")

    def process(self, events: pa.Table) -> Iterator[Any]:
        sliced = slice_events(events, self._spec)
        for part in sliced.slices:
            element = (part.shard, self._spill.put(to_ipc(part.table)))
            yield TimestampedValue(element, part.window_start_ms / 1000)
        if sliced.late.num_rows:
            tags = {key: tag(events, key) for key in ("block", "sequence")}
            part_name = f"{tags['block']}-{int(tags['sequence']):05d}"
            yield TaggedOutput(LATE, with_tag(sliced.late, part=part_name))
        self._late.inc(sliced.late.num_rows)
        self._outside.inc(sliced.out_of_range)

    def finish_bundle(self) -> None:
        self._spill.flush()

    def teardown(self) -> None:
        self._spill.close()


@dataclass
class TallyWindows(beam.PTransform):
    """Group slices by shard and window and tally them; outputs ``summaries`` and ``flags``."""

    spec: TallySpec
    windowing: Windowing

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, slices: Any) -> Any:
        return (
            slices
            | "Window" >> self.windowing.into()
            | "Group by shard" >> beam.GroupByKey()
            | "Tally"
            >> beam.ParDo(_Tally(self.spec))
            .with_outputs(FLAGS, main=SUMMARIES)
            .with_output_types(pa.Table)
        )


class _Tally(beam.DoFn):
    def __init__(self, spec: TallySpec) -> None:
        self._spec = spec

    def setup(self) -> None:
        names = ("events_counted", "duplicates", "givt_clicks", "flags", "log_copies")
        self._count = {name: Metrics.counter(NAMESPACE, name) for name in names}

    def process(
        self, element: tuple[int, Iterable[bytes]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        shard, slices = element
        result = tally([from_ipc(take(part)) for part in slices], self._spec)
        part = _part_name(shard, window)
        yield with_tag(result.summaries, part=part)
        if result.flags.num_rows:
            yield TaggedOutput(FLAGS, with_tag(result.flags, part=part))
        self._count["log_copies"].inc(result.copies)
        self._add_up(result.summaries)
        flags = pl.Series(result.flags["flags"])
        self._count["flags"].inc(int(flags.list.len().sum()))

    def _add_up(self, summaries: pa.Table) -> None:
        sums = pl.DataFrame(pl.from_arrow(summaries)).select(
            pl.sum("impressions", "clicks", "conversions", "duplicates", "givt_clicks")
        )
        row = sums.row(0, named=True)
        counted = row["impressions"] + row["clicks"] + row["conversions"]
        self._count["events_counted"].inc(counted)
        self._count["duplicates"].inc(row["duplicates"])
        self._count["givt_clicks"].inc(row["givt_clicks"])


@dataclass
class RollUpWindows(beam.PTransform):
    """Base summaries to summaries of a larger window, of which only whole ones are given.

    Attributes:
        spec: of the base rows.
        window_ms: the larger window, a multiple of the base window.
        windowing: Beam's windows, a multiple of ``window_ms``.
        ranges: what was tallied, empty for all; windows that these cut are left out.
    """

    spec: TallySpec
    window_ms: int
    windowing: Windowing
    ranges: Ranges = ()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summaries: Any) -> Any:
        return (
            summaries
            | "Key by shard" >> beam.Map(_keyed).with_output_types(tuple[int, bytes])
            | "Window" >> self.windowing.into()
            | "Group by shard" >> beam.GroupByKey()
            | "Roll up"
            >> beam.ParDo(_RollUp(self.spec, self.window_ms, self.ranges)).with_output_types(
                pa.Table
            )
        )


def _part_name(shard: int, window: Any) -> str:
    return f"{window.start.micros // 1_000_000}-{shard:04d}"


def _keyed(summaries: pa.Table) -> tuple[int, bytes]:
    return int(tag(summaries, "part").rsplit("-", 1)[1]), to_ipc(summaries)


class _RollUp(beam.DoFn):
    def __init__(self, spec: TallySpec, window_ms: int, ranges: Ranges) -> None:
        self._spec = spec
        self._window_ms = window_ms
        self._ranges = ranges

    def process(
        self, element: tuple[int, Iterable[bytes]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[pa.Table]:
        shard, tables = element
        spec = self._spec
        rolled = roll_up(
            [from_ipc(part) for part in tables],
            self._window_ms,
            spec.allowed_lateness_ms,
            spec.dimensions,
            spec.uniques_k,
        )
        kept = rolled
        if self._ranges:
            start, end = (pl.col(name).dt.epoch("ms") for name in ("window_start", "window_end"))
            frame = pl.DataFrame(pl.from_arrow(rolled))
            whole = frame.select(within(start, end, self._ranges)).to_series()
            kept = rolled.filter(whole.to_arrow())
        if kept.num_rows:
            yield with_tag(kept, part=_part_name(shard, window))
