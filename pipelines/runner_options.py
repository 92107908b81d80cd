"""Where a stream runs: options of the command line, and Beam's that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adtally.pipelines.dataflow_cli import dataflow_options
from adtally.pipelines.options import Duration, options
from adtally.runners.flink import LEAST_PARALLELISM

if TYPE_CHECKING:
    from adtally.runners.dataflow import DataflowConfig

runner_options = options(
    click.option("--prism", help="Prism's binary.  [default: found, or built with Go]"),
    click.option("--flink-job-endpoint", help="HOST:PORT of Beam's job server for Flink."),
    click.option("--flink-artifact-endpoint", default="", help="HOST:PORT of its artifacts."),
    click.option(
        "--flink-environment",
        default="",
        help="HOST:PORT of an SDK worker pool beside each TaskManager.  [default: workers here]",
    ),
    click.option(
        "--flink-parallelism",
        type=click.IntRange(min=LEAST_PARALLELISM),
        default=LEAST_PARALLELISM,
        show_default=True,
        help="Slots that the job takes.",
    ),
    click.option(
        "--flink-workers",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="SDK worker processes beside each TaskManager; 0 for one less than its cores.",
    ),
    click.option("--flink-checkpoint-every", type=Duration(), default=10, show_default=True),
    click.option("--flink-state-backend", default="", help="hashmap or rocksdb."),
    click.option("--flink-checkpoint-folder", default="", help="URI for checkpoints."),
    click.option("--flink-savepoint", default="", help="Begin from this savepoint or checkpoint."),
    click.option("--detach", is_flag=True, help="Return once the job runs (Flink)."),
    dataflow_options,
)


def runner_arguments(given: dict[str, Any], dataflow: DataflowConfig | None = None) -> list[str]:
    """Beam options of the runner that was chosen.

    Args:
        given: options of the command line.
        dataflow: what :func:`adtally.pipelines.dataflow_cli.dataflow_of` made of them.

    Raises:
        ConfigError: it lacks what it needs.
    """
    from adtally.pipelines.job import ConfigError
    from adtally.runners.flink import FlinkConfig
    from adtally.runners.prism import prism_arguments

    runner = given["runner"]
    if (
        given["detach"]
        and dataflow is None
        and not (runner == "FlinkRunner" and given["flink_environment"])
    ):
        raise ConfigError(
            "--detach ends this process, and with it the stream: its workers run in here. Give it "
            "with --runner FlinkRunner and --flink-environment HOST:PORT of an SDK worker pool."
        )
    if given["flink_savepoint"] and runner != "FlinkRunner":
        raise ConfigError(f"--flink-savepoint is of no use to --runner {runner}; leave it out.")
    if given["stop_at"] is not None:
        if runner != "DirectRunner":
            raise ConfigError(
                f"--stop-at is a bounded read, which --runner {runner} has not been made for; "
                f"leave --runner out, and it runs on the DirectRunner."
            )
        return []
    if runner in ("DirectRunner", "PrismRunner"):
        return prism_arguments(given["prism"])
    if dataflow is not None:
        return dataflow.arguments()
    if runner != "FlinkRunner":
        return [f"--runner={runner}"]
    if not given["flink_job_endpoint"]:
        raise ConfigError(
            "--runner FlinkRunner needs --flink-job-endpoint HOST:PORT of Beam's job server; "
            "'adtally local up --only flink' starts one on this machine and says where."
        )
    try:
        config = FlinkConfig(
            job_endpoint=given["flink_job_endpoint"],
            artifact_endpoint=given["flink_artifact_endpoint"],
            environment=given["flink_environment"],
            parallelism=given["flink_parallelism"],
            checkpoint_seconds=given["flink_checkpoint_every"],
            state_backend=given["flink_state_backend"],
            checkpoint_folder=given["flink_checkpoint_folder"],
            savepoint=given["flink_savepoint"],
            workers=given["flink_workers"],
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config.arguments()
