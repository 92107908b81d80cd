"""What a page shows: a range of time, in steps, of some advertisers."""

from __future__ import annotations

import bisect
import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

RANGES: Final = {
    "1h": HOUR_MS,
    "6h": 6 * HOUR_MS,
    "24h": DAY_MS,
    "7d": 7 * DAY_MS,
    "31d": 31 * DAY_MS,
}
"""That a page offers, by name."""  # fmt: skip

DEFAULT_RANGE: Final = "6h"
LONGEST_MS: Final = 93 * DAY_MS
MOST_STEPS: Final = 100
"""Bars of a chart: a phone has 300 pixels for them."""

_STEPS: Final = tuple(
    factor * MINUTE_MS for factor in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440)
)


class ViewError(ValueError):
    """There is no such range; says what there is."""


@dataclass(frozen=True)
class View:
    """A range of base windows.

    Attributes:
        from_ms: its start, milliseconds since the epoch; a multiple of ``step_ms``.
        to_ms: its end, exclusive; likewise.
        step_ms: width of a bar, a multiple of the base window.
        now_ms: when it was asked for.
        advertisers: of these alone; None for all.
    """

    from_ms: int
    to_ms: int
    step_ms: int
    now_ms: int
    advertisers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.advertisers is not None and not self.advertisers:
            raise ValueError("a view of no advertiser would be taken for one of all.")

    def of(self, *advertisers: str) -> View:
        """The same of some advertisers."""
        return replace(self, advertisers=advertisers)

    def starts(self) -> range:
        """Of every step."""
        return range(self.from_ms, self.to_ms, self.step_ms)


def view_of(
    window_seconds: int,
    now_ms: int,
    length_ms: int,
    until_ms: int | None = None,
    most_steps: int = MOST_STEPS,
) -> View:
    """The range that ends at a moment, in steps that are not too many.

    Args:
        window_seconds: of the base windows.
        now_ms: the moment of the question.
        length_ms: how long it is to be.
        until_ms: its end; None for now.
        most_steps: bars of a chart.

    Raises:
        ViewError: it is empty or too long, or before 1970.
    """
    if not 0 < length_ms <= LONGEST_MS:
        raise ViewError(f"a range is at most {LONGEST_MS // DAY_MS} days long, and not empty.")
    window_ms = window_seconds * 1000
    least = max(window_ms, length_ms // most_steps)
    fitting = [step for step in _STEPS if step % window_ms == 0 and step >= least]
    step = fitting[0] if fitting else -(-least // window_ms) * window_ms
    end = now_ms if until_ms is None else until_ms
    to_ms = -(-end // step) * step
    from_ms = to_ms - max(1, length_ms // step) * step
    if from_ms < 0 or to_ms > 4_102_444_800_000:
        raise ViewError("there is nothing before 1970 or after 2099.")
    return View(from_ms, to_ms, step, now_ms)


class Correction(NamedTuple):
    """A range that a generation tallied again; times in milliseconds since the epoch."""

    generation: int
    from_ms: int
    to_ms: int
    committed_ms: int


def ruling(
    corrections: Sequence[Correction], from_ms: int, to_ms: int, window_ms: int
) -> list[tuple[int, int, int]]:
    """Which generation rules the windows of a range.

    Args:
        corrections: all that there are.
        from_ms: where the range begins.
        to_ms: where it ends, exclusive.
        window_ms: of the base windows, of which a correction rules those that lie in it whole.

    Returns:
        ``(generation, from_ms, to_ms)``, in order, without gaps; 0 rules what no other does.
    """
    whole = [
        (
            one.generation,
            -(-one.from_ms // window_ms) * window_ms,
            one.to_ms // window_ms * window_ms,
        )
        for one in corrections
    ]
    edges = sorted(
        {from_ms, to_ms, *(ms for _, *ends in whole for ms in ends if from_ms < ms < to_ms)}
    )
    found: list[tuple[int, int, int]] = []
    for start, end in itertools.pairwise(edges):
        over = max(
            (number for number, low, high in whole if low <= start and end <= high), default=0
        )
        if found and found[-1][0] == over:
            found[-1] = (over, found[-1][1], end)
        else:
            found.append((over, start, end))
    return found


def ruled_by(parts: Sequence[tuple[int, int, int]], start: int, end: int) -> int | None:
    """The generation that rules all of a range; None where several do."""
    index = bisect.bisect_right(parts, start, key=lambda part: part[1]) - 1
    if index < 0 or parts[index][2] < end:
        return None
    return parts[index][0]


def spans(starts: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Ranges that windows of one width make up, those that touch as one."""
    first = last = None
    for start in sorted(starts):
        if last is not None and start == last:
            last = start + width
            continue
        if first is not None and last is not None:
            yield first, last
        first, last = start, start + width
    if first is not None and last is not None:
        yield first, last


def without(
    ranges: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """What is left of ranges; both are in order, and neither has ranges that meet."""
    for start, end in ranges:
        for low, high in taken:
            if low >= end or high <= start:
                continue
            if start < low:
                yield start, low
            start = high
        if start < end:
            yield start, end


def utc(ms: int) -> datetime.datetime:
    """A moment, aware."""
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
