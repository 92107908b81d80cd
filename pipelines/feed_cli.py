"""``adtally feed``: logs that there are, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress

from adtally.pipelines.sources import reach_options

if TYPE_CHECKING:
    from adtally.io.read_logs import CutLine, LogChunk


@click.command()
@click.option("--input", "inputs", multiple=True, required=True, metavar="PATH", help="JSON lines.")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="URI",
    help="kinesis://STREAM or pubsub://projects/P/topics/T.",
)
@reach_options
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0,
    help="Records a second.  [default: as fast as the stream takes them]",
)
def feed(inputs: tuple[str, ...], target: str, rate: float, **reach: Any) -> None:
    """Send the lines of logs into a stream, each as a record: to try a stream at once.

    Events keep their times. What is older than the allowed lateness when it arrives is written to
    the event log but counts in no summary, as any late event; give 'adtally stream' an
    --allowed-lateness that covers it.
    """
    from adtally.io.kinesis_producer import PutError
    from adtally.io.logs import NoInput
    from adtally.io.pubsub_client import PubSubError
    from adtally.pipelines.job import ConfigError

    count = 0
    try:
        name, counts = _sending(target, lines_of(inputs), rate, reach)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("records", total=None)
            for count in counts:
                progress.update(task, completed=count, description=f"{count:,} records")
    except (ConfigError, NoInput) as error:
        raise click.UsageError(str(error)) from error
    except (PutError, PubSubError) as error:
        raise click.ClickException(f"after {count:,} records: {error}") from error
    click.echo(f"{count:,} records put into {name}", err=True)


def _sending(
    target: str, lines: Iterator[bytes], rate: float, reach: dict[str, Any]
) -> tuple[str, Iterator[int]]:
    """The name of a stream, and the counts while lines are sent to it."""
    from adtally.io.kinesis_producer import put_lines
    from adtally.io.pubsub_publisher import publish_lines
    from adtally.pipelines.sources import parse_kinesis, parse_topic

    if target.startswith("pubsub://"):
        topic = parse_topic(target, reach["pubsub_endpoint"])
        return topic.name, publish_lines(topic, lines, rate)
    config = parse_kinesis(target, reach["kinesis_region"], reach["kinesis_endpoint"])
    return config.name, put_lines(config, lines, rate)


def lines_of(inputs: Sequence[str]) -> Iterator[bytes]:
    """The lines of logs that are not blank, file by file.

    Raises:
        PutError: a file holds no lines, or cannot be read to its end.
        NoInput: there is none.
    """
    from adtally.io.kinesis_producer import PutError
    from adtally.io.logs import list_files, pack
    from adtally.io.read_logs import read_chunks

    for block in pack(list_files(inputs)[0]):
        if block.format != "json":
            raise PutError(f"{block.spans[0].file.path} is no log of JSON lines.")
        for chunk in read_chunks(block):
            for problem in chunk.unreadable:
                raise PutError(f"{problem.source} at byte {problem.position}: {problem.message}")
            for cut in chunk.cut:
                raise PutError(
                    f"a line of {cut.line_bytes:,} bytes in {_source_of(chunk, cut)} is longer "
                    f"than any stream takes; leave it out."
                )
            yield from (line for line in chunk.data.split(b"\n") if line.strip())


def _source_of(chunk: LogChunk, cut: CutLine) -> str:
    found = [one for one in chunk.segments if one.chunk_offset <= cut.chunk_offset]
    return f"{found[-1].source} at byte {found[-1].source_offset}"
