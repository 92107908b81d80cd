"""``adtally stream``."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any, Final

import click

from adtally.pipelines.alerts import alert_options, alerts_of
from adtally.pipelines.options import Duration, Instant, options
from adtally.pipelines.sources import letter_topic, read_of, read_options
from adtally.runners.flink import LEAST_PARALLELISM

LOG_SECONDS: Final = 10.0
TIP: Final = "LATEST"
OLDEST: Final = "TRIM_HORIZON"
_LOG = logging.getLogger("adtally")


class StartPosition(click.ParamType):
    """``TRIM_HORIZON``, ``LATEST``, or a time."""

    name = "position"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, str) and value.upper() in (TIP, OLDEST):
            return value.upper()
        return Instant().convert(value, param, ctx)


stream_options = options(
    read_options,
    click.option(
        "--start",
        type=StartPosition(),
        help="TRIM_HORIZON, LATEST, or a time of arrival.  [default: before the oldest window that "
        "was open when the output's log was last written; TRIM_HORIZON for a new output]",
    ),
    click.option(
        "--stop-at",
        type=StartPosition(),
        help="Read what had arrived by then (LATEST: by now) as a bounded run, and end.",
    ),
    click.option(
        "--pane-every",
        type=Duration(),
        default=10,
        show_default=True,
        help="Between early panes, and between late ones.",
    ),
    click.option(
        "--look-back-every",
        type=Duration(),
        default=300,
        show_default=True,
        help="As --pane-every, for the rules that look back: each pane judges up to an hour again.",
    ),
    click.option(
        "--flush-every",
        type=Duration(),
        default=300,
        show_default=True,
        help="The longest that events and rows wait to be written to files.",
    ),
    click.option(
        "--writers",
        type=click.IntRange(min=1),
        default=2,
        show_default=True,
        help="Files of the event log that are collected side by side.",
    ),
    alert_options,
    click.option(
        "--dead-letters-to",
        metavar="pubsub://projects/P/topics/T",
        help="Send dead letters to a topic as well as to files.",
    ),
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
)


def request_of(given: dict[str, Any], beam_arguments: tuple[str, ...], elastic: Any) -> Any:
    """The options as a request.

    Raises:
        ConfigError: one cannot work.
    """
    from adtally.io.kinesis_shards import TRIM_HORIZON
    from adtally.pipelines.backfill import now_ms
    from adtally.pipelines.job import ConfigError
    from adtally.pipelines.requests import stream_settings_for
    from adtally.pipelines.stream import StreamRequest
    from adtally.transforms.mapping import identity_mapping, load_mapping

    start = {None: TRIM_HORIZON, OLDEST: TRIM_HORIZON, TIP: now_ms()}.get(
        given["start"], given["start"]
    )
    stop = now_ms() if given["stop_at"] == TIP else given["stop_at"]
    if stop == OLDEST:
        raise ConfigError("--stop-at TRIM_HORIZON would read nothing; give LATEST or a time.")
    reads = tuple(read_of(source, given, start, stop) for source in given["sources"])
    settings = stream_settings_for(given)
    alerts, alert_spec = alerts_of(given, settings.ruleset.quotas)
    return StreamRequest(
        reads=reads,
        output=given["output"],
        settings=settings,
        mapping=load_mapping(given["mapping"]) if given["mapping"] else identity_mapping(),
        elasticsearch=elastic,
        pane_seconds=given["pane_every"],
        look_back_seconds=given["look_back_every"],
        flush_seconds=given["flush_every"],
        writers=given["writers"],
        alerts=alerts,
        alert_spec=alert_spec,
        letter_topic=letter_topic(given),
        resume=given["start"] is None and not given["flink_savepoint"],
        explicit=given["start"] is not None,
        stateless=given["runner"] in ("DirectRunner", "PrismRunner"),
        tolerant=given["on_data_loss"] != "fail",
        arguments=(*runner_arguments(given), *beam_arguments),
    )


def runner_arguments(given: dict[str, Any]) -> list[str]:
    """Beam options of the runner that was chosen.

    Raises:
        ConfigError: it lacks what it needs.
    """
    from adtally.pipelines.job import ConfigError
    from adtally.runners.flink import FlinkConfig
    from adtally.runners.prism import prism_arguments

    runner = given["runner"]
    if given["detach"] and not (runner == "FlinkRunner" and given["flink_environment"]):
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


def attend(result: Any, quiet: bool) -> None:
    """Stay with a running stream and log its counts, until it ends or is interrupted.

    Raises:
        KeyboardInterrupt: by Ctrl-C or SIGTERM.
    """
    from apache_beam.runners.runner import PipelineState

    from adtally.runners.unbounded import counters

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    next_line = time.monotonic() + LOG_SECONDS
    try:
        while not PipelineState.is_terminal(result.state):
            time.sleep(0.5)
            if not quiet and time.monotonic() >= next_line:
                next_line += LOG_SECONDS
                counts = counters(result)
                if counts:  # Flink keeps them in its own metrics
                    _LOG.info(line(counts))
        result.wait_until_finish()
    finally:
        signal.signal(signal.SIGTERM, before)


def line(counts: dict[str, int]) -> str:
    """Counts of a running stream as one line."""
    names = (
        "kinesis_records",
        "pubsub_messages",
        "events",
        "events_late",
        "records_dead",
        "panes_early",
        "panes_on_time",
        "panes_late",
        "documents_written",
        "alerts_sent",
        "rate_limits_sent",
        "log_rows",
        "kinesis_throttled",
        "kinesis_retries",
        "pubsub_acks",
        "pubsub_retries",
    )
    return " ".join(f"{name}={counts.get(name, 0)}" for name in names)
