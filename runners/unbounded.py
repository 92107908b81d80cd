"""Starting a stream, and watching it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

SETTLE_SECONDS: Final = 10.0
"""A cluster that has no room for a job, or no place for its checkpoints, says so within this."""

RESTORE_SECONDS: Final = 30.0
"""A savepoint that is not there, or is of another graph, was refused after up to 19 s."""


class NotStarted(RuntimeError):
    """The runner took the job, but it ended at once."""


def start(build: Callable[[beam.Pipeline], None], arguments: Sequence[str]) -> Any:
    """Build an unbounded pipeline and start it; returns Beam's result, without waiting."""
    pipeline = beam.Pipeline(options=PipelineOptions([*arguments, "--streaming"]))
    build(pipeline)
    return pipeline.run()


def settle(result: Any, seconds: float = SETTLE_SECONDS) -> None:
    """Watch a job that was just started for as long as a runner may need to refuse it.

    Beam calls a job on Flink "running" as soon as the job server has it, so only time tells.

    Raises:
        NotStarted: it ended.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = result.state
        if PipelineState.is_terminal(state):
            try:
                result.wait_until_finish()  # raises with the cluster's reason
            except RuntimeError as error:
                raise NotStarted(
                    f"the job did not start, and nothing is being read: {error}"
                ) from error
            raise NotStarted(f"the job ended at once ({state}), and nothing is being read.")
        time.sleep(0.5)


def counters(result: Any) -> dict[str, int]:
    """The counters of all steps so far, added up by name; ours only."""
    found: dict[str, int] = {}
    if hasattr(result, "_metrics"):
        result._metrics = None  # Beam 2.77 asks a portable runner once, and repeats that answer
    for metric in result.metrics().query()["counters"]:
        name = metric.key.metric.name
        if metric.key.metric.namespace == "adtally":
            found[name] = found.get(name, 0) + int(metric.result or 0)
    return found
