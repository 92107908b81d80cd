"""``adtally stream``."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape

from adtally.io.shown import shown_line
from adtally.pipelines.alerts import alert_options, alerts_of
from adtally.pipelines.failures import failures
from adtally.pipelines.limit_options import limit_options
from adtally.pipelines.options import (
    Duration,
    Instant,
    PassThrough,
    config_option,
    elasticsearch_options,
    options,
    output_option,
    ready,
    run_options,
    setup_option,
    tally_options,
)
from adtally.pipelines.run_cli import (
    elasticsearch_of,
    install_templates,
    limit_dead_letters,
    show_outcome,
    watch,
)
from adtally.pipelines.runner_options import runner_arguments, runner_options
from adtally.pipelines.sources import letter_topic, read_options, reads_of

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
    runner_options,
)


@click.command(cls=PassThrough)
@stream_options
@output_option
@tally_options
@limit_options
@elasticsearch_options
@setup_option
@run_options
@config_option
@click.pass_context
def stream(ctx: click.Context, /, **given: Any) -> None:
    """Read a live stream; write what a backfill writes, minute by minute.

    DirectRunner means Prism here, which keeps no state: after a kill the stream is read again from
    before the oldest open window. FlinkRunner keeps its state in checkpoints, DataflowRunner in the
    cloud, where the job runs on by itself.
    """
    with failures(given["debug"], "the next start reads what is missing"):
        from adtally.pipelines import stream as runs
        from adtally.pipelines.dataflow_cli import launch
        from adtally.runners.unbounded import RESTORE_SECONDS, SETTLE_SECONDS, settle

        ready(ctx)
        request = stream_request(given, tuple(ctx.args), elasticsearch_of(given))
        if given["elasticsearch_setup"]:
            install_templates(request)
        console = Console(stderr=True)
        if given["stop_at"] is not None:
            outcome = runs.read_up_to_now(request, given["runner"], watch(console, given))
            show_outcome(outcome, console)
            limit_dead_letters(outcome.report, given["max_dead_letter_ratio"])
            return
        if request.dataflow is not None:
            launch(request, request.dataflow, console)
            return
        job, result = runs.stream(request)
        output = escape(shown_line(job.output.rstrip("/")))
        console.print(f"output   {output}", soft_wrap=True)
        console.print(f"look     duckdb -init {output}/views.sql", soft_wrap=True)
        if given["detach"]:
            settle(result, RESTORE_SECONDS if given["flink_savepoint"] else SETTLE_SECONDS)
            return
        try:
            attend(result, given["quiet"])
        except KeyboardInterrupt:
            if given["runner"] == "FlinkRunner" and given["flink_environment"]:
                console.print("the job runs on; end it through Flink, with a savepoint")
                return
            result.cancel()
            console.print("ended; the next start reads again from before the oldest open window")


def stream_request(given: dict[str, Any], beam_arguments: tuple[str, ...], elastic: Any) -> Any:
    """The options as a request.

    Raises:
        ConfigError: one cannot work.
    """
    from adtally.io.kinesis_shards import TRIM_HORIZON
    from adtally.pipelines.backfill import now_ms
    from adtally.pipelines.dataflow_cli import check_reach, dataflow_of
    from adtally.pipelines.job import ConfigError, shown_time
    from adtally.pipelines.requests import goes_on, stream_settings_for
    from adtally.pipelines.stream import StreamRequest
    from adtally.transforms.mapping import identity_mapping, load_mapping

    start = {None: TRIM_HORIZON, OLDEST: TRIM_HORIZON, TIP: now_ms()}.get(
        given["start"], given["start"]
    )
    stop = now_ms() if given["stop_at"] == TIP else given["stop_at"]
    if isinstance(given["start"], int) and given["start"] > now_ms():
        raise ConfigError(
            f"--start {shown_time(given['start'])} is still to come; what arrives before it would "
            f"not be read. Give a time that is past, or LATEST."
        )
    if stop == OLDEST:
        raise ConfigError("--stop-at TRIM_HORIZON would read nothing; give LATEST or a time.")
    reads = reads_of(given, start, stop)
    settings = stream_settings_for(given)
    alerts, alert_spec = alerts_of(given, settings.ruleset.quotas)
    dataflow = dataflow_of(given, beam_arguments)
    request = StreamRequest(
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
        resume=given["start"] is None and not goes_on(given),
        explicit=given["start"] is not None,
        stateless=given["runner"] in ("DirectRunner", "PrismRunner"),
        tolerant=given["on_data_loss"] != "fail",
        dataflow=dataflow,
        arguments=(*runner_arguments(given, dataflow), *beam_arguments),
    )
    check_reach(request)
    return request


def attend(result: Any, quiet: bool) -> None:
    """Stay with a running stream and log its counts, until it ends or is interrupted.

    Raises:
        KeyboardInterrupt: by Ctrl-C or SIGTERM.
    """
    from apache_beam.runners.runner import PipelineState

    from adtally.runners.unbounded import counters

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    # Beam takes Ctrl-C for itself and ends Prism, so that nothing can be asked of it any more.
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupted) for number in numbers}
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
        for number, handler in before.items():
            signal.signal(number, handler)


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
        "overflow_rows",
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
