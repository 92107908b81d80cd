"""Starting a stream, and watching it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def start(build: Callable[[beam.Pipeline], None], arguments: Sequence[str]) -> Any:
    """Build an unbounded pipeline and start it; returns Beam's result, without waiting."""
    pipeline = beam.Pipeline(options=PipelineOptions([*arguments, "--streaming"]))
    build(pipeline)
    return pipeline.run()


def counters(result: Any) -> dict[str, int]:
    """The counters of all steps so far, added up by name; ours only."""
    found: dict[str, int] = {}
    for metric in result.metrics().query()["counters"]:
        name = metric.key.metric.name
        if metric.key.metric.namespace == "adtally":
            found[name] = found.get(name, 0) + int(metric.result or 0)
    return found
