"""Judge series of base windows, as a transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import TimestampedValue

from adtally.io.arrow import from_ipc, to_ipc, with_tag
from adtally.io.panes import GroupPanes
from adtally.transforms.anomalies import judge_series, past_ms, series_of
from adtally.transforms.tally_windows import (
    NEWEST,
    Counters,
    Windowing,
    pane_tags,
    part_name,
    shard_of,
)
from adtally.transforms.verdicts import VerdictSpec


@dataclass
class JudgeSeries(beam.PTransform):
    """Group sums of base windows by shard and history window; gives tables of anomalies.

    The input is collections of tables of base summaries, those before the range of a re-tally too.
    Sums go to their own history window, and to those after it that look back at it. Tables carry
    the end of the newest window that they know (ms) as tag ``newest``. Counts ``anomalies`` where
    no pane repeats another.
    """

    spec: VerdictSpec
    windowing: Windowing

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summaries: tuple[Any, ...]) -> Any:
        # Only sums are flattened: before a Flatten, runners serialise all that they have.
        sums = tuple(
            tables
            | f"Sum {number}"
            >> beam.ParDo(_ByShard(self.spec)).with_output_types(tuple[int, bytes])
            for number, tables in enumerate(summaries)
        )
        return (
            sums
            | beam.Flatten()
            | "Window" >> self.windowing.into()
            | "Group by shard" >> GroupPanes()
            | "Judge"
            >> beam.ParDo(_Judge(self.spec, self.windowing.accumulates)).with_output_types(pa.Table)
        )


class _ByShard(beam.DoFn):
    """Sums of base windows, at the start of each of Beam's windows that needs them."""

    def __init__(self, spec: VerdictSpec) -> None:
        self._spec = spec

    def process(self, summaries: pa.Table) -> Iterator[Any]:
        cut = self._spec.cut
        reach_ms = past_ms(self._spec.tally.window_ms)
        shard = shard_of(summaries)
        series = series_of(summaries)
        start = cut.start(pl.col("window"))
        for hop in range(1 + -(-reach_ms // cut.window_ms)):
            needed = start + hop * cut.window_ms
            theirs = needed // cut.beam_window_ms
            rows = series
            if hop:
                before = (needed - cut.window_ms) // cut.beam_window_ms
                rows = series.filter((needed <= pl.col("window") + reach_ms) & (theirs != before))
            parts = rows.with_columns(theirs.alias("at")).partition_by(
                "at", as_dict=True, include_key=False
            )
            for (at,), part in parts.items():
                table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
                seconds = int(at) * cut.beam_window_ms / 1000
                yield TimestampedValue((shard, to_ipc(table)), seconds)


class _Judge(beam.DoFn):
    def __init__(self, spec: VerdictSpec, accumulating: bool) -> None:
        self._spec = spec
        self._accumulating = accumulating

    def setup(self) -> None:
        self._count = Counters()

    def process(
        self,
        element: tuple[int, Iterable[bytes]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[pa.Table]:
        shard, parts = element
        begin_ms = window.start.micros // 1000
        sums = [from_ipc(part) for part in parts]
        found = judge_series(sums, begin_ms, self._spec)
        if found.num_rows:
            newest = max(pc.max(table["window"]).as_py() for table in sums if table.num_rows)
            end = {NEWEST: str(newest + self._spec.tally.window_ms)}
            yield with_tag(found, part=part_name(shard, window), **pane_tags(pane), **end)
            if not self._accumulating:
                flags = pl.Series(found["flags"])
                self._count.add("anomalies", int(flags.list.len().sum()))
