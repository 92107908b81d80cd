"""``adtally feed``: logs that there are, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
from rich.console import Console
from rich.progress import Progress


@click.command()
@click.option("--input", "inputs", multiple=True, required=True, metavar="PATH", help="JSON lines.")
@click.option("--to", "target", required=True, metavar="kinesis://STREAM", help="A stream.")
@click.option("--kinesis-region", default="", help="[default: the environment's]")
@click.option("--kinesis-endpoint", default="", help="URL of a VPC endpoint or an emulator.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0,
    help="Records a second.  [default: as fast as Kinesis takes them]",
)
def feed(
    inputs: tuple[str, ...], target: str, kinesis_region: str, kinesis_endpoint: str, rate: float
) -> None:
    """Put the lines of logs into a Kinesis stream, each as a record: to try a stream at once.

    Events keep their times. What is older than the allowed lateness when it arrives is written to
    the event log but counts in no summary, as any late event; give 'adtally stream' an
    --allowed-lateness that covers it.
    """
    from adtally.io.kinesis_producer import PutError, put_lines
    from adtally.io.logs import NoInput
    from adtally.pipelines.job import ConfigError
    from adtally.pipelines.sources import parse_kinesis

    count = 0
    try:
        config = parse_kinesis(target, kinesis_region, kinesis_endpoint)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("records", total=None)
            for count in put_lines(config, lines_of(inputs), rate):
                progress.update(task, completed=count, description=f"{count:,} records")
    except (ConfigError, NoInput) as error:
        raise click.UsageError(str(error)) from error
    except PutError as error:
        raise click.ClickException(f"after {count:,} records: {error}") from error
    click.echo(f"{count:,} records put into {config.name}", err=True)


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
            yield from (line for line in chunk.data.split(b"\n") if line.strip())
