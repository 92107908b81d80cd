"""Flink's options: what a job is told, and what is refused before it is."""

from __future__ import annotations

from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from adtally.pipelines.job import ConfigError
from adtally.pipelines.runner_options import runner_arguments
from adtally.pipelines.stream_cli import stream
from adtally.runners.flink import CHECKPOINT_SECONDS, LEAST_PARALLELISM, FlinkConfig

ENDPOINT = "localhost:8099"


def told(config: FlinkConfig) -> dict[str, str]:
    """Options by name, each of which may be there once only."""
    pairs = [argument.removeprefix("--").partition("=") for argument in config.arguments()]
    names = [name for name, _, _ in pairs]
    assert len(set(names)) == len(names)
    return {name: value for name, _, value in pairs}


def told_by(*arguments: str) -> list[str]:
    """Beam options that the command line makes of ours."""
    base = ("--source", "kinesis://events", "--output", "out", "--runner", "FlinkRunner")
    given: dict[str, Any] = stream.make_context("stream", [*base, *arguments]).params
    return runner_arguments(given)


def test_a_job_that_says_nothing_else_has_what_a_stream_needs() -> None:
    options = told(FlinkConfig(ENDPOINT))
    assert options["runner"] == "PortableRunner"
    assert options["job_endpoint"] == ENDPOINT
    assert options["parallelism"] == str(LEAST_PARALLELISM)
    assert options["checkpointing_interval"] == str(round(CHECKPOINT_SECONDS * 1000))
    # How it is restarted is the cluster's to say: a job's own numbers would win over it.
    assert not {"number_of_execution_retries", "execution_retry_delay"} & options.keys()
    assert options["environment_type"] == "LOOPBACK"
    # Without it the bundle that begins reading gives nothing, ever.
    assert options["finish_bundle_before_checkpointing"] == ""
    # A job that was cancelled can be resumed from its last checkpoint.
    assert "externalized_checkpoints_enabled" in options
    assert "retain_externalized_checkpoints_on_cancellation" in options
    # A source that is idle must not be taken for one that has ended.
    assert int(options["shutdown_sources_after_idle_ms"]) == (1 << 63) - 1


@pytest.mark.parametrize(
    "name",
    [
        "artifact_endpoint",
        "environment_config",
        "state_backend",
        "state_backend_storage_path",
        "savepoint_path",
    ],
)
def test_what_is_not_given_is_left_to_the_cluster(name: str) -> None:
    assert name not in told(FlinkConfig(ENDPOINT))


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"artifact_endpoint": "jobs:8098"}, "artifact_endpoint", "jobs:8098"),
        ({"state_backend": "rocksdb"}, "state_backend", "rocksdb"),
        ({"checkpoint_folder": "s3://b/c"}, "state_backend_storage_path", "s3://b/c"),
        ({"savepoint": "file:///s/savepoint-1"}, "savepoint_path", "file:///s/savepoint-1"),
        ({"parallelism": 7}, "parallelism", "7"),
        ({"checkpoint_seconds": 60}, "checkpointing_interval", "60000"),
        ({"checkpoint_seconds": 0.5}, "checkpointing_interval", "500"),
    ],
)
def test_what_is_given_is_told(given: dict[str, Any], name: str, value: str) -> None:
    plain = told(FlinkConfig(ENDPOINT))
    options = told(FlinkConfig(ENDPOINT, **given))
    assert options.pop(name) == value
    plain.pop(name, None)
    assert options == plain


def test_a_worker_pool_replaces_the_workers_of_this_process() -> None:
    options = told(FlinkConfig(ENDPOINT, environment="taskmanager:50000"))
    assert options["environment_type"] == "EXTERNAL"
    assert options["environment_config"] == "taskmanager:50000"


def test_beam_reads_the_endpoints_and_the_environment() -> None:
    config = FlinkConfig(ENDPOINT, artifact_endpoint="jobs:8098", environment="pool:50000")
    options = PipelineOptions([*config.arguments(), "--streaming"]).view_as(PortableOptions)
    assert options.job_endpoint == ENDPOINT
    assert options.artifact_endpoint == "jobs:8098"
    assert (options.environment_type, options.environment_config) == ("EXTERNAL", "pool:50000")


@pytest.mark.parametrize("parallelism", [1, 0, -1])
def test_a_parallelism_that_no_savepoint_survives_is_refused(parallelism: int) -> None:
    with pytest.raises(ValueError) as raised:
        FlinkConfig(ENDPOINT, parallelism=parallelism)
    message = str(raised.value)
    assert f"parallelism is {parallelism}:" in message
    assert "cannot be resumed" in message
    assert f"give {LEAST_PARALLELISM} or more" in message


def test_the_least_parallelism_is_taken() -> None:
    assert FlinkConfig(ENDPOINT, parallelism=LEAST_PARALLELISM).parallelism == LEAST_PARALLELISM


# From the command line.


def test_the_command_line_has_the_same_defaults() -> None:
    expected = FlinkConfig(ENDPOINT).arguments()
    assert told_by("--flink-job-endpoint", ENDPOINT) == expected


def test_every_option_of_the_command_line_arrives() -> None:
    arguments = told_by(
        *("--flink-job-endpoint", ENDPOINT, "--flink-artifact-endpoint", "jobs:8098"),
        *("--flink-environment", "pool:50000", "--flink-parallelism", "4"),
        *("--flink-checkpoint-every", "1m", "--flink-state-backend", "rocksdb"),
        *("--flink-checkpoint-folder", "s3://b/c", "--flink-savepoint", "s3://b/s"),
        *("--flink-workers", "3", "--detach"),
    )
    config = FlinkConfig(
        job_endpoint=ENDPOINT,
        artifact_endpoint="jobs:8098",
        environment="pool:50000",
        parallelism=4,
        checkpoint_seconds=60,
        state_backend="rocksdb",
        checkpoint_folder="s3://b/c",
        savepoint="s3://b/s",
        workers=3,
    )
    assert arguments == config.arguments()


def test_flink_without_a_job_server_is_refused_with_how_to_get_one() -> None:
    with pytest.raises(ConfigError) as raised:
        told_by()
    message = str(raised.value)
    assert "--flink-job-endpoint HOST:PORT" in message
    assert "adtally local up --only flink" in message


def test_what_would_end_at_once_is_not_detached() -> None:
    with pytest.raises(ConfigError, match=r"--detach ends this process.*--flink-environment"):
        told_by("--flink-job-endpoint", ENDPOINT, "--detach")


@pytest.mark.parametrize("seconds", [0.0, -0.001, -5.0])
def test_flink_without_checkpoints_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_seconds is .*give 1 or more"):
        FlinkConfig(ENDPOINT, checkpoint_seconds=seconds)


def test_a_savepoint_without_flink_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--flink-savepoint is of no use to --runner PrismRunner"
    ):
        told_by("--runner", "PrismRunner", "--flink-savepoint", "file:///s")
