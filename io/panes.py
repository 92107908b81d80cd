"""Groups of Beam, pane by pane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam


class GroupPanes(beam.PTransform):
    """``GroupByKey`` without panes that hold nothing.

    Flink fires such a pane when a window has expired before the processing-time timer of its next
    early or late pane: at a drain, and whenever the watermark leaps.
    """

    def expand(self, keyed: Any) -> Any:
        return keyed | "Group" >> beam.GroupByKey() | "Not empty" >> beam.Filter(holds_something)


def holds_something(element: tuple[Any, Iterable[Any]]) -> bool:
    """Whether a group has a value."""
    return any(True for _ in element[1])
