"""``adtally probe``: the time from event to summary, measured."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adtally.io.shown import shown_line
from adtally.pipelines.failures import failures
from adtally.pipelines.options import (
    Duration,
    PassThrough,
    config_option,
    elasticsearch_options,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of
from adtally.pipelines.sources import reach_options

if TYPE_CHECKING:
    from adtally.pipelines.probe import Probe


@click.command(cls=PassThrough)
@click.option(
    "--to",
    required=True,
    metavar="URI",
    help="What the stream reads: kinesis://STREAM, or the topic, pubsub://projects/P/topics/T.",
)
@reach_options
@elasticsearch_options
@click.option(
    "--closed", is_flag=True, help="Wait for the summary of a closed window, not an early one."
)
@click.option(
    "--timeout", type=Duration(), default=120, show_default=True, help="Seconds, then it is lost."
)
@click.option(
    "--max-seconds", type=click.FloatRange(min=0), help="Exit with 1 where one takes longer."
)
@click.option("--every", type=Duration(), help="Go on, with a probe so often, until interrupted.")
@click.option("--count", type=click.IntRange(min=1), help="With --every: end after so many.")
@click.option(
    "--metrics-file",
    metavar="FILE",
    help="Keep the figures here, for Prometheus' textfile collector; its name ends in .prom.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, exists=True),
    help="A record of your mapping's shape, with {id} and {time} in it.",
)
@click.option(
    "--advertiser",
    default="__probe__",
    show_default=True,
    help="Whose events the markers are, as the summaries name it.",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def probe(ctx: click.Context, /, **given: Any) -> None:
    """Put a marker event into a running stream, and wait until a search finds its summary.

    Prints the seconds. Exit code 1 where a marker is lost or slower than --max-seconds. Markers are
    impressions of the advertiser __probe__, and in the summaries as any other's.
    docs/monitoring.md.
    """
    from adtally.io.elasticsearch import connect
    from adtally.pipelines.probe import Measured, Probe

    ready(ctx)
    with failures(given["debug"], "markers that were sent are counted"):
        elastic = elasticsearch_of(given)
        if elastic is None:
            raise click.UsageError("--elasticsearch URL is needed: where markers come out.")
        if given["count"] and not given["every"]:
            raise click.UsageError("--count is for --every; one marker is sent without.")
        template = given["record"] and Path(given["record"]).read_text(encoding="utf-8")
        with contextlib.closing(connect(elastic)) as client:
            one = Probe(
                _sender(given),
                client,
                elastic,
                given["closed"],
                given["timeout"],
                given["advertiser"],
                template,
            )
            done, slow = Measured(), False
            for _ in range(given["count"] or (sys.maxsize if given["every"] else 1)):
                begun = time.monotonic()
                seconds = _measured(one, bool(given["every"] and done.count), given)
                done.add(seconds)
                slow |= seconds is not None and _slow(seconds, given)
                if given["metrics_file"]:
                    _keep(given["metrics_file"], done.prometheus())
                if given["every"] and done.count + done.lost != given["count"]:
                    time.sleep(max(0.0, begun + given["every"] - time.monotonic()))
    if slow or done.lost:
        sys.exit(1)


def _measured(one: Probe, survive: bool, given: dict[str, Any]) -> float | None:
    """Send a marker; None where it was lost, which is said.

    Args:
        one: sends it.
        survive: an error is an outage, and told as one: it has worked before.
        given: the command's options.
    """
    try:
        seconds = one.measure()
    except Exception as error:
        if not survive:
            raise
        click.echo(shown_line(f"adtally: lost: {type(error).__name__}: {error}"), err=True)
        return None
    if seconds is None:
        click.echo(
            f"adtally: no search found the marker in {given['timeout']} s: see whether the stream "
            f"runs, reads {given['to']} and writes to this Elasticsearch and index prefix.",
            err=True,
        )
    return seconds


def _slow(seconds: float, given: dict[str, Any]) -> bool:
    """Say how long it took; whether that is too long."""
    click.echo(f"{seconds:.1f} s from the stream to a search")
    limit = given["max_seconds"]
    if limit is not None and seconds > limit:
        click.echo(f"adtally: that is more than --max-seconds {limit:g}.", err=True)
        return True
    return False


def _keep(path: str, text: str) -> None:
    from adtally.io.files import atomic_write

    with atomic_write(str(Path(path).absolute())) as file:
        file.write(text.encode())


def _sender(given: dict[str, Any]) -> Callable[[bytes], None]:
    from adtally.io.kinesis_producer import put_lines
    from adtally.io.pubsub_publisher import publish_lines
    from adtally.pipelines.sources import parse_kinesis, parse_topic

    target = given["to"]
    if target.startswith("pubsub://"):
        topic = parse_topic(target, given["pubsub_endpoint"])
        return lambda line: _all(publish_lines(topic, [line]))
    config = parse_kinesis(target, given["kinesis_region"], given["kinesis_endpoint"])
    return lambda line: _all(put_lines(config, [line]))


def _all(counts: Iterator[int]) -> None:
    for _ in counts:
        pass
