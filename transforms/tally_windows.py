"""Slice and tally, as transforms: the windows and triggers are Beam's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.windowed_value import PaneInfoTiming

from adtally.io import schema
from adtally.io.arrow import from_ipc, has_tag, tag, to_ipc, with_tag
from adtally.io.panes import GroupPanes
from adtally.io.sources import NAMESPACE
from adtally.io.spill import Spill, take
from adtally.transforms.decode import WATERMARK
from adtally.transforms.slices import Slice, SliceSpec, slice_events
from adtally.transforms.tally import TallySpec, tally
from adtally.transforms.windows import MOST_MICROS, Ranges, within

SLICES: Final = "slices"
LATE: Final = "late"
CONTEXT: Final = "context"
SUMMARIES: Final = "summaries"
FLAGS: Final = "flags"
PAST: Final = "past"
TIMING: Final = "pane_timing"
INDEX: Final = "pane_index"
NEWEST: Final = "newest"
EARLY: Final = "early"


ARRIVAL_SLACK_MS: Final = 120_000
"""Beam keeps a window this much longer than events of it count. Whether one counts is decided by
its arrival, and the watermark follows arrival: without slack, an event that arrives in the last
moment could reach its window just after Beam has dropped it."""


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

    @classmethod
    def streaming(
        cls, beam_window_ms: int, pane_seconds: int, allowed_lateness_ms: int, hops: int = 1
    ) -> Windowing:
        """Early panes, one when the watermark passes, and late ones; each only with news.

        Args:
            beam_window_ms: the window itself.
            pane_seconds: processing time between early panes, and between late ones; whole
                seconds.
            allowed_lateness_ms: how late events count.
            hops: windows that data passes up to here; each needs its slack.
        """
        again = trigger.AfterProcessingTime(pane_seconds)
        return cls(
            beam_window_ms,
            trigger.AfterWatermark(early=again, late=again),
            trigger.AccumulationMode.ACCUMULATING,
            allowed_lateness_ms + hops * ARRIVAL_SLACK_MS,
        )

    @property
    def accumulates(self) -> bool:
        return bool(self.accumulation_mode == trigger.AccumulationMode.ACCUMULATING)

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
    """Cut batches of events into slices; outputs ``slices``, ``context`` and ``late``.

    A slice is ``(shard, bytes)``, lies in exactly one of Beam's windows, and has a timestamp
    inside it. It is serialised here and not by a coder, because the DirectRunner decodes and
    encodes what it groups once more. ``context`` is what history windows know of events before
    them, cut likewise. Late events come as tables with their ``window_start``.

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
            CONTEXT, LATE, main=SLICES
        ).with_output_types(tuple[int, bytes])


class _Slice(beam.DoFn):
    def __init__(self, spec: SliceSpec, spill_folder: str) -> None:
        self._spec = spec
        self._spill_folder = spill_folder

    def setup(self) -> None:
        self._spill = Spill(self._spill_folder)
        self._late = Metrics.counter(NAMESPACE, "events_late")
        self._overdue = Metrics.counter(NAMESPACE, "events_overdue")
        self._outside = Metrics.counter(NAMESPACE, "events_out_of_range")

    def process(self, events: pa.Table) -> Iterator[Any]:
        watermark_ms = int(tag(events, WATERMARK)) if has_tag(events, WATERMARK) else None
        sliced = slice_events(events, self._spec, watermark_ms)
        for part in sliced.slices:
            yield self._element(part, part.table)
        for part in sliced.context:
            yield TaggedOutput(CONTEXT, self._element(part, with_tag(part.table, **{CONTEXT: "1"})))
        if sliced.late.num_rows:
            tags = {key: tag(events, key) for key in ("block", "sequence")}
            part_name = f"{tags['block']}-{int(tags['sequence']):05d}"
            yield TaggedOutput(LATE, with_tag(sliced.late, part=part_name))
        self._late.inc(sliced.late.num_rows)
        self._overdue.inc(sliced.overdue)
        self._outside.inc(sliced.out_of_range)

    def _element(self, part: Slice, table: pa.Table) -> TimestampedValue:
        element = (part.shard, self._spill.put(to_ipc(table)))
        return TimestampedValue(element, part.window_start_ms / 1000)

    def finish_bundle(self) -> None:
        self._spill.flush()

    def teardown(self) -> None:
        self._spill.close()


@dataclass
class TallyWindows(beam.PTransform):
    """Group slices by shard and window and tally them; outputs ``summaries`` and ``flags``.

    Attributes:
        spec: how to tally.
        windowing: Beam's windows.
        ranges: what is tallied, empty for all. Summaries of windows outside are a third output,
            ``past``: what series inside are compared with.
    """

    spec: TallySpec
    windowing: Windowing
    ranges: Ranges = ()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, slices: Any) -> Any:
        return (
            slices
            | "Window" >> self.windowing.into()
            | "Group by shard" >> GroupPanes()
            | "Tally"
            >> beam.ParDo(_Tally(self.spec, self.windowing.accumulates, self.ranges))
            .with_outputs(FLAGS, PAST, main=SUMMARIES)
            .with_output_types(pa.Table)
        )


class _Tally(beam.DoFn):
    def __init__(self, spec: TallySpec, accumulating: bool, ranges: Ranges) -> None:
        self._spec = spec
        self._ranges = ranges
        self._accumulating = accumulating

    def setup(self) -> None:
        self._count = Counters()

    def process(
        self,
        element: tuple[int, Iterable[bytes]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[Any]:
        shard, slices = element
        result = tally([from_ipc(take(part)) for part in slices], self._spec)
        tags = {"part": part_name(shard, window), **pane_tags(pane)}
        summaries, past = self._split(result.summaries)
        flags, _ = self._split(result.flags)
        yield with_tag(summaries, **tags)
        if past.num_rows:
            yield TaggedOutput(PAST, with_tag(past, **tags))
            self._count.add("events_out_of_range", _events(past))
        if flags.num_rows:
            yield TaggedOutput(FLAGS, with_tag(flags, **tags))
        self._count.add(f"panes_{tags[TIMING]}", 1)
        if pane.index <= 0:  # later panes hold the events of the earlier ones again
            self._count.add("windows", 1)
        folded = self._inside(result.folded)
        self._count.add("overflow_rows", _overflowing(folded))
        if not self._accumulating:
            self._count.add("log_copies", result.copies)
            self._add_up(summaries)
            self._count.add("rows_folded", folded.height)
            self._count.add("events_folded", int(folded["seen"].sum()))
            self._count.add("flags", int(pl.Series(flags["flags"]).list.len().sum()))

    def _split(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Rows of windows within the ranges, and the others."""
        if not self._ranges or not table.num_rows:
            return table, table.slice(0, 0)
        start, end = (pl.col(name).dt.epoch("ms") for name in ("window_start", "window_end"))
        frame = pl.DataFrame(pl.from_arrow(table.select(["window_start", "window_end"])))
        inside = frame.select(within(start, end, self._ranges)).to_series()
        return table.filter(inside.to_arrow()), table.filter((~inside).to_arrow())

    def _inside(self, folded: pl.DataFrame) -> pl.DataFrame:
        if not self._ranges or not folded.height:
            return folded
        window = pl.col("window")
        return folded.filter(within(window, window + self._spec.window_ms, self._ranges))

    def _add_up(self, summaries: pa.Table) -> None:
        sums = pl.DataFrame(pl.from_arrow(summaries)).select(
            pl.sum("impressions", "clicks", "conversions", "duplicates", "givt_clicks")
        )
        row = sums.row(0, named=True)
        counted = row["impressions"] + row["clicks"] + row["conversions"]
        self._count.add("events_counted", counted)
        self._count.add("duplicates", row["duplicates"])
        self._count.add("givt_clicks", row["givt_clicks"])
        if beyond := too_large(summaries):
            self._count.add("rows_of_too_much_money", beyond)


def _overflowing(folded: pl.DataFrame) -> int:
    """Rows that others were folded into."""
    return folded.select("advertiser_id", "window", "currency").n_unique()


def _events(summaries: pa.Table) -> int:
    """Events and duplicates in some summaries."""
    names = ("impressions", "clicks", "conversions", "duplicates")
    return sum(pc.sum(summaries[name]).as_py() or 0 for name in names)


def too_large(summaries: pa.Table) -> int:
    """Rows with a sum of money that 64 bits did not hold."""
    frame = pl.DataFrame(pl.from_arrow(summaries.select(list(schema.MONEY))))
    return frame.filter(pl.any_horizontal(pl.all().abs() == MOST_MICROS)).height


class Counters:
    """Counters by name, made when they are first needed."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def add(self, name: str, amount: int) -> None:
        if name not in self._made:
            self._made[name] = Metrics.counter(NAMESPACE, name)
        self._made[name].inc(amount)


def pane_tags(pane: Any) -> dict[str, str]:
    """What a row's pane was: ``early``, ``on_time`` or ``late``, and its number in the window."""
    timing = {PaneInfoTiming.EARLY: EARLY, PaneInfoTiming.LATE: "late"}.get(pane.timing, "on_time")
    return {TIMING: timing, INDEX: str(max(0, pane.index))}


@dataclass
class WithoutEarly(beam.PTransform):
    """Leave out what early panes gave: it is for those who look, not for files."""

    def expand(self, tables: Any) -> Any:
        return tables | beam.Filter(_not_early).with_output_types(pa.Table)


def _not_early(table: pa.Table) -> bool:
    return tag(table, TIMING) != EARLY


def is_context(table: pa.Table) -> bool:
    """Whether a slice is what is known from before."""
    return f"adtally.{CONTEXT}".encode() in (table.schema.metadata or {})


def part_name(shard: int, window: Any) -> str:
    """What the tables of a group are named after."""
    return f"{window.start.micros // 1_000_000}-{shard:04d}"


def keyed_by_shard(summaries: pa.Table) -> tuple[int, bytes]:
    """A table of a pane with its shard, serialised."""
    return shard_of(summaries), to_ipc(summaries)


def shard_of(table: pa.Table) -> int:
    """The shard that a table of a pane was computed for."""
    return int(tag(table, "part").rsplit("-", 1)[1])
