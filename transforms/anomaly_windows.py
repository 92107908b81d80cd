"""Judge series of base windows, as a transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.transforms.window import TimestampedValue

from adtally.io.arrow import from_ipc, tag, to_ipc, with_tag
from adtally.io.panes import GroupPanes
from adtally.transforms.anomalies import PAST_MS, judge_series, series_of
from adtally.transforms.tally_windows import TIMING, Counters, Windowing, pane_tags, part_name
from adtally.transforms.verdicts import VerdictSpec


@dataclass
class JudgeSeries(beam.PTransform):
    """Group sums of base windows by shard and history window; gives tables of anomalies.

    The input is tables of base summaries, those of the past of a re-tally too. Each goes to its own
    history window, and to those after it that look back at it.
    """

    spec: VerdictSpec
    windowing: Windowing

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summaries: Any) -> Any:
        return (
            summaries
            | "Key by shard"
            >> beam.ParDo(_ByShard(self.spec)).with_output_types(tuple[int, bytes])
            | "Window" >> self.windowing.into()
            | "Group by shard" >> GroupPanes()
            | "Judge" >> beam.ParDo(_Judge(self.spec)).with_output_types(pa.Table)
        )


class _ByShard(beam.DoFn):
    """Sums of base windows, at the start of each of Beam's windows that needs them."""

    def __init__(self, spec: VerdictSpec) -> None:
        self._spec = spec

    def process(self, summaries: pa.Table) -> Iterator[Any]:
        spec, cut = self._spec, self._spec.cut
        shard = int(tag(summaries, "part").rsplit("-", 1)[1])
        series = series_of(summaries)
        past_ms = PAST_MS(spec.tally.window_ms)
        start = cut.start(pl.col("window"))
        for hop in range(1 + -(-past_ms // cut.window_ms)):
            needed = start + hop * cut.window_ms
            theirs = needed // cut.beam_window_ms * cut.beam_window_ms
            if hop:
                before = (needed - cut.window_ms) // cut.beam_window_ms * cut.beam_window_ms
                rows = series.filter((needed <= pl.col("window") + past_ms) & (theirs != before))
            else:
                rows = series
            for (at,), part in rows.partition_by(theirs.alias("at"), as_dict=True).items():
                yield TimestampedValue((shard, to_ipc(part.to_arrow())), at / 1000)
