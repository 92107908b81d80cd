"""Starting a stream and watching it: what is taken for a start, and what is counted."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.runner import PipelineState

from adtally.runners import unbounded
from adtally.runners.unbounded import (
    RESTORE_SECONDS,
    SETTLE_SECONDS,
    NotStarted,
    counters,
    settle,
    start,
)
from tests.io.fake_kinesis import Clock

IN_PROCESS = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
ENDED = [
    state
    for name, state in vars(PipelineState).items()
    if name.isupper() and PipelineState.is_terminal(state)
]
ALIVE = [PipelineState.STARTING, PipelineState.RUNNING, PipelineState.UNKNOWN]


class JobThat:
    """A job whose state changes at some time, as a cluster's does."""

    def __init__(
        self, clock: Clock, state: str, ends: str = "", after: float = 0, reason: str = ""
    ) -> None:
        self.clock = clock
        self.began = clock.now
        self.before = state
        self.ends = ends
        self.after = after
        self.reason = reason
        self.asked: list[float] = []

    @property
    def state(self) -> str:
        self.asked.append(self.clock.now - self.began)
        return self.ends if self.ends and self.asked[-1] >= self.after else self.before

    def wait_until_finish(self) -> str:
        if self.reason:
            raise RuntimeError(self.reason)
        return self.ends


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(unbounded, "time", clock)
    return clock


class _Count(beam.DoFn):
    """Counts in two namespaces, and one thing under the name that another step has."""

    def __init__(self, name: str) -> None:
        self._name = name

    def process(self, number: int) -> Any:
        Metrics.counter("adtally", self._name).inc(number)
        Metrics.counter("adtally", "both").inc()
        Metrics.counter("elsewhere", self._name).inc(1000)
        Metrics.counter("elsewhere", "theirs").inc()
        yield number


def counting(pipeline: beam.Pipeline) -> None:
    numbers = pipeline | beam.Create([1, 2, 3])
    numbers | "One" >> beam.ParDo(_Count("one")) | "Two" >> beam.ParDo(_Count("two"))


@pytest.fixture(scope="module")
def done() -> Any:
    """What Beam gives for a job that ended."""
    result = start(counting, [IN_PROCESS])
    result.wait_until_finish()
    return result


# Starting.


def test_a_pipeline_is_started_as_a_stream_with_the_options_given() -> None:
    seen: list[Any] = []

    def build(pipeline: beam.Pipeline) -> None:
        seen.append(pipeline.options)
        counting(pipeline)

    assert start(build, [IN_PROCESS, "--job_name=mine"]).state == PipelineState.DONE
    assert seen[0].view_as(StandardOptions).streaming is True
    assert seen[0].get_all_options()["job_name"] == "mine"


# Settling.


def test_a_job_that_runs_is_watched_for_its_time_and_no_longer(clock: Clock) -> None:
    job = JobThat(clock, PipelineState.RUNNING)
    settle(job)
    assert SETTLE_SECONDS <= clock.now - job.began < SETTLE_SECONDS + 1
    assert max(job.asked) >= SETTLE_SECONDS - 1


def test_a_job_that_restores_its_state_is_watched_for_longer(clock: Clock) -> None:
    job = JobThat(clock, PipelineState.RUNNING, PipelineState.FAILED, after=19, reason="no such")
    settle(job)
    with pytest.raises(NotStarted):
        settle(JobThat(clock, PipelineState.RUNNING, "FAILED", after=19), RESTORE_SECONDS)


@pytest.mark.parametrize("state", ALIVE)
def test_a_job_that_has_not_ended_is_taken_as_started(clock: Clock, state: str) -> None:
    job = JobThat(clock, state)
    settle(job, 3)
    assert len(job.asked) > 1


@pytest.mark.parametrize("state", ENDED)
def test_a_job_that_ends_is_told_within_a_second(clock: Clock, state: str) -> None:
    job = JobThat(clock, PipelineState.RUNNING, state, after=4)
    with pytest.raises(NotStarted) as raised:
        settle(job)
    assert str(raised.value) == f"the job ended at once ({state}), and nothing is being read."
    assert clock.now - job.began < 5


def test_the_reason_of_the_cluster_is_told(clock: Clock) -> None:
    reason = "NoResourceAvailableException: Could not acquire the minimum required resources."
    job = JobThat(clock, PipelineState.STARTING, PipelineState.FAILED, after=2, reason=reason)
    with pytest.raises(NotStarted) as raised:
        settle(job)
    assert "the job did not start, and nothing is being read" in str(raised.value)
    assert reason in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_job_that_beam_has_run_to_its_end_did_not_start_a_stream(done: Any) -> None:
    with pytest.raises(NotStarted, match=r"ended at once \(DONE\)"):
        settle(done)


# Counting.


def test_counters_are_added_up_over_steps_and_only_ours(done: Any) -> None:
    assert counters(done) == {"one": 6, "two": 6, "both": 6}


def test_a_job_that_counted_nothing_has_no_counters() -> None:
    result = start(lambda pipeline: pipeline | beam.Create([1]), [IN_PROCESS])
    assert counters(result) == {}
