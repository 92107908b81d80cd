"""Judge history windows, as a transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa

from adtally.io.arrow import from_ipc, with_tag
from adtally.io.panes import GroupPanes
from adtally.io.spill import take
from adtally.transforms.tally_windows import (
    TIMING,
    Counters,
    Windowing,
    is_context,
    pane_tags,
    part_name,
)
from adtally.transforms.verdicts import VerdictSpec, judge_history


@dataclass
class JudgeHistory(beam.PTransform):
    """Group slices and their context by shard and history window; gives tables of verdicts.

    The input is what :class:`~adtally.transforms.tally_windows.SliceByWindow` gives: ``slices`` and
    ``context``, as one collection. Counts ``look_back_panes_TIMING`` and, where no pane repeats
    another, ``look_back_flags`` and what they add: ``look_back_givt_clicks`` and so on.
    """

    spec: VerdictSpec
    windowing: Windowing

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, slices: Any) -> Any:
        return (
            slices
            | "Window" >> self.windowing.into()
            | "Group by shard" >> GroupPanes()
            | "Judge"
            >> beam.ParDo(_Judge(self.spec, self.windowing.accumulates)).with_output_types(pa.Table)
        )


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
        tables = [from_ipc(take(part)) for part in parts]
        context = [table for table in tables if is_context(table)]
        slices = [table for table in tables if not is_context(table)]
        verdicts = judge_history(slices, context, self._spec)
        tags = pane_tags(pane)
        self._count.add(f"look_back_panes_{tags[TIMING]}", 1)
        if verdicts.num_rows:
            yield with_tag(verdicts, part=part_name(shard, window), **tags)
            if not self._accumulating:
                self._add_up(verdicts)

    def _add_up(self, verdicts: pa.Table) -> None:
        frame = pl.DataFrame(pl.from_arrow(verdicts))
        self._count.add("look_back_flags", int(frame["flags"].list.len().sum()))
        added = frame["adjustments"].explode().drop_nulls().struct.unnest()
        for name in ("givt_clicks", "sivt_clicks", "sivt_conversions"):
            self._count.add(f"look_back_{name}", int(added[name].sum()) if added.height else 0)
