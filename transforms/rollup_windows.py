"""Roll up, as a transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa

from adtally.io.arrow import from_ipc, with_tag
from adtally.io.panes import GroupPanes
from adtally.transforms.rollup import roll_up
from adtally.transforms.tally import TallySpec
from adtally.transforms.tally_windows import (
    Windowing,
    keyed_by_shard,
    pane_tags,
    part_name,
)
from adtally.transforms.windows import Ranges, within


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
            | "Key by shard" >> beam.Map(keyed_by_shard).with_output_types(tuple[int, bytes])
            | "Window" >> self.windowing.into()
            | "Group by shard" >> GroupPanes()
            | "Roll up"
            >> beam.ParDo(_RollUp(self.spec, self.window_ms, self.ranges)).with_output_types(
                pa.Table
            )
        )


class _RollUp(beam.DoFn):
    def __init__(self, spec: TallySpec, window_ms: int, ranges: Ranges) -> None:
        self._spec = spec
        self._window_ms = window_ms
        self._ranges = ranges

    def process(
        self,
        element: tuple[int, Iterable[bytes]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[pa.Table]:
        shard, tables = element
        spec = self._spec
        rolled = roll_up(
            [from_ipc(part) for part in tables],
            self._window_ms,
            spec.allowed_lateness_ms,
            spec.dimensions,
            spec.uniques_k,
            spec.max_rows,
        )
        kept = rolled
        if self._ranges:
            start, end = (pl.col(name).dt.epoch("ms") for name in ("window_start", "window_end"))
            frame = pl.DataFrame(pl.from_arrow(rolled))
            whole = frame.select(within(start, end, self._ranges)).to_series()
            kept = rolled.filter(whole.to_arrow())
        if kept.num_rows:
            yield with_tag(kept, part=part_name(shard, window), **pane_tags(pane))
