"""Starting a stream, and watching it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

SETTLE_SECONDS: Final = 10.0
"""A cluster that refuses a job, such as for a savepoint of another graph, does so within this."""


class NotStarted(RuntimeError):
    """The runner took the job, but it ended at once."""


def start(build: Callable[[beam.Pipeline], None], arguments: Sequence[str]) -> Any:
    """Build an unbounded pipeline and start it; returns Beam's result, without waiting."""
    pipeline = beam.Pipeline(options=PipelineOptions([*arguments, "--streaming"]))
    build(pipeline)
    return pipeline.run()


def settle(result: Any) -> None:
    """Watch a job that was just started for as long as a runner may need to refuse it.

    Raises:
        NotStarted: it ended.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
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
    for metric in result.metrics().query()["counters"]:
        name = metric.key.metric.name
        if metric.key.metric.namespace == "adtally":
            found[name] = found.get(name, 0) + int(metric.result or 0)
    return found
