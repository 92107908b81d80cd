"""When windows are computed, and how panes and parts are named."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics import Metrics
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, IntervalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.arrow import from_ipc, tag, with_tag
from adtally.io.sources import NAMESPACE
from adtally.runners.direct import NAME, run_bounded
from adtally.transforms.tally_windows import (
    ARRIVAL_SLACK_MS,
    EARLY,
    INDEX,
    TIMING,
    Counters,
    Windowing,
    WithoutEarly,
    keyed_by_shard,
    pane_tags,
    part_name,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AGAIN = trigger.AfterProcessingTime(7)
BATCH = Windowing.batch(DAY)
STREAM = Windowing.streaming(MINUTE, 7, HOUR)


def pane(timing: int, index: int) -> PaneInfo:
    return PaneInfo(index == 0, False, timing, index, max(0, index))


# When windows are computed.


def test_in_batch_a_window_is_computed_once_and_nothing_is_kept_for_later() -> None:
    assert (
        Windowing(
            DAY,
            trigger.DefaultTrigger(),
            trigger.AccumulationMode.DISCARDING,
            allowed_lateness_ms=0,
        )
        == BATCH
    )
    assert not BATCH.accumulates


def test_in_a_stream_panes_come_again_with_all_events_so_far() -> None:
    assert STREAM.beam_window_ms == MINUTE
    assert str(STREAM.trigger) == str(trigger.AfterWatermark(early=AGAIN, late=AGAIN))
    assert STREAM.accumulation_mode == trigger.AccumulationMode.ACCUMULATING
    assert STREAM.accumulates


@given(lateness=st.integers(0, 30 * DAY), hops=st.integers(1, 3))
def test_beam_keeps_a_window_longer_than_events_of_it_count(lateness: int, hops: int) -> None:
    windowing = Windowing.streaming(MINUTE, 7, lateness, hops)
    assert windowing.allowed_lateness_ms == lateness + hops * ARRIVAL_SLACK_MS
    assert windowing.allowed_lateness_ms > lateness
    further = Windowing.streaming(HOUR, 7, lateness, hops + 1)
    assert further.allowed_lateness_ms > windowing.allowed_lateness_ms


@pytest.mark.parametrize("windowing", [BATCH, STREAM, dataclasses.replace(STREAM)])
def test_beam_is_told_all_of_it(windowing: Windowing) -> None:
    told = windowing.into().windowing
    assert told.windowfn == FixedWindows(windowing.beam_window_ms / 1000)
    assert told.triggerfn == windowing.trigger
    assert told.accumulation_mode == windowing.accumulation_mode
    assert told.allowed_lateness.micros == windowing.allowed_lateness_ms * 1000


@given(at_ms=st.integers(-DAY, 40 * DAY), window_ms=st.sampled_from([1000, MINUTE, HOUR, DAY]))
def test_beams_windows_begin_where_the_windows_of_rows_do(at_ms: int, window_ms: int) -> None:
    windowfn = Windowing.batch(window_ms).into().windowing.windowfn
    (window,) = windowfn.assign(windowfn.AssignContext(Timestamp(micros=at_ms * 1000)))
    assert window.start.micros == at_ms // window_ms * window_ms * 1000
    assert window.end.micros - window.start.micros == window_ms * 1000


# What a pane was.


@pytest.mark.parametrize(
    ("timing", "index", "expected"),
    [
        (PaneInfoTiming.EARLY, 0, ("early", "0")),
        (PaneInfoTiming.EARLY, 12, ("early", "12")),
        (PaneInfoTiming.ON_TIME, 3, ("on_time", "3")),
        (PaneInfoTiming.LATE, 4, ("late", "4")),
        (PaneInfoTiming.UNKNOWN, 0, ("on_time", "0")),
        (PaneInfoTiming.UNKNOWN, -1, ("on_time", "0")),
    ],
)
def test_a_pane_is_named(timing: int, index: int, expected: tuple[str, str]) -> None:
    tags = pane_tags(pane(timing, index))
    assert (tags[TIMING], tags[INDEX]) == expected
    assert set(tags) == {TIMING, INDEX}


def test_a_pane_of_a_runner_without_triggers_is_on_time() -> None:
    from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN

    assert pane_tags(PANE_INFO_UNKNOWN) == {TIMING: "on_time", INDEX: "0"}


def test_early_panes_alone_are_left_out() -> None:
    timings = (EARLY, "on_time", "late", EARLY)
    tables = [
        with_tag(pa.table({"n": [number]}), **{TIMING: timing, INDEX: "0"})
        for number, timing in enumerate(timings)
    ]

    def build(pipeline: beam.Pipeline) -> None:
        kept = pipeline | beam.Create(tables) | WithoutEarly()
        seen = kept | beam.Map(lambda table: (table["n"][0].as_py(), tag(table, TIMING)))
        assert_that(seen, equal_to([(1, "on_time"), (2, "late")]))

    run_bounded(build, NAME, [])


def test_a_table_that_says_no_pane_is_an_error_and_not_left_out() -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create([pa.table({"n": [1]})]) | WithoutEarly()

    with pytest.raises(Exception, match=TIMING):
        run_bounded(build, NAME, [])


# Parts.


def window(start_ms: int, length_ms: int = MINUTE) -> IntervalWindow:
    start = Timestamp(micros=start_ms * 1000)
    return IntervalWindow(start, Timestamp(micros=(start_ms + length_ms) * 1000))


@given(
    minutes=st.integers(-1_000_000, 50_000_000),
    shard=st.integers(0, 100_000),
    rows=st.integers(0, 3),
)
def test_a_roll_up_finds_the_shard_in_the_name_of_a_part(
    minutes: int, shard: int, rows: int
) -> None:
    part = part_name(shard, window(minutes * MINUTE))
    summaries = with_tag(pa.table({"clicks": pa.array(range(rows), pa.int64())}), part=part)
    key, data = keyed_by_shard(summaries)
    assert key == shard
    assert from_ipc(data).equals(summaries)


def test_a_part_is_named_by_the_second_its_window_begins_and_its_shard() -> None:
    assert part_name(7, window(1_772_366_400_000)) == "1772366400-0007"


@given(
    one=st.tuples(st.integers(0, 50_000_000), st.integers(0, 9999)),
    other=st.tuples(st.integers(0, 50_000_000), st.integers(0, 9999)),
)
def test_parts_of_other_windows_or_shards_have_other_names(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    names = [part_name(shard, window(minute * MINUTE)) for minute, shard in (one, other)]
    assert (names[0] == names[1]) == (one == other)


# Counting.


class _Counting(beam.DoFn):
    def setup(self) -> None:
        self._count = Counters()

    def process(self, number: int) -> Any:
        self._count.add("numbers", 1)
        self._count.add("numbers", 1)
        if number < 0:
            self._count.add("negative", number)
        yield number


def test_counters_add_up_by_name_and_none_is_made_before_it_is_needed() -> None:
    found: list[dict[str, int]] = []
    for numbers in ([1, 2, 3], [1, -2]):

        def build(pipeline: beam.Pipeline, numbers: list[int] = numbers) -> None:
            _ = pipeline | beam.Create(numbers) | beam.ParDo(_Counting())

        found.append(run_bounded(build, NAME, []))
    assert found == [{"numbers": 6}, {"numbers": 4, "negative": -2}]


def test_counters_are_in_our_namespace() -> None:
    counters = Counters()
    counters.add("ours", 1)
    assert counters._made["ours"].metric_name.namespace == NAMESPACE
    assert counters._made["ours"].metric_name == Metrics.counter(NAMESPACE, "ours").metric_name
