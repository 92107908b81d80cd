"""``adtally stream``."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any, Final

import click

from adtally.pipelines.alerts import alert_options, alerts_of
from adtally.pipelines.options import Duration, Instant, options
from adtally.pipelines.runner_options import runner_arguments, runner_options

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
    click.option(
        "--source",
        "sources",
        multiple=True,
        required=True,
        metavar="URI",
        help="kinesis://STREAM or kinesis://ARN; several are read into one graph.",
    ),
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
    click.option("--kinesis-region", default="", help="[default: the environment's]"),
    click.option("--kinesis-endpoint", default="", help="URL of a VPC endpoint or an emulator."),
    click.option(
        "--readers",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        help="Groups of shards that are read side by side, at most one per shard.",
    ),
    click.option(
        "--on-data-loss",
        type=click.Choice(["fail", "trim_horizon"]),
        default="fail",
        show_default=True,
        help="When records left the stream unread: end, or count it and go on with the oldest.",
    ),
    click.option(
        "--watermark-lag",
        type=Duration(),
        default=30,
        show_default=True,
        help="How far windows wait behind arrival before their on-time pane.",
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
    runner_options,
)


def request_of(given: dict[str, Any], beam_arguments: tuple[str, ...], elastic: Any) -> Any:
    """The options as a request.

    Raises:
        ConfigError: one cannot work.
    """
    from adtally.io.kinesis import ReadFromKinesis
    from adtally.io.kinesis_shards import TRIM_HORIZON
    from adtally.pipelines.backfill import now_ms
    from adtally.pipelines.dataflow_cli import check_reach, dataflow_of
    from adtally.pipelines.job import ConfigError
    from adtally.pipelines.requests import goes_on, stream_settings_for
    from adtally.pipelines.stream import StreamRequest, parse_source
    from adtally.transforms.mapping import identity_mapping, load_mapping

    start = {None: TRIM_HORIZON, OLDEST: TRIM_HORIZON, TIP: now_ms()}.get(
        given["start"], given["start"]
    )
    stop = now_ms() if given["stop_at"] == TIP else given["stop_at"]
    if stop == OLDEST:
        raise ConfigError("--stop-at TRIM_HORIZON would read nothing; give LATEST or a time.")
    try:
        reads = tuple(
            ReadFromKinesis(
                parse_source(source, given["kinesis_region"], given["kinesis_endpoint"]),
                start_ms=start,
                stop_ms=stop,
                readers=given["readers"],
                on_data_loss=given["on_data_loss"],
                watermark_lag_seconds=given["watermark_lag"],
            )
            for source in given["sources"]
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
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
        resume=given["start"] is None and not goes_on(given),
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
    )
    return " ".join(f"{name}={counts.get(name, 0)}" for name in names)
