"""``adtally local``: the real servers on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table

from adtally.pipelines.options import options

if TYPE_CHECKING:
    from adtally.runners.local.stack import State

SERVERS = ("elasticsearch", "kinesis", "pubsub", "s3", "gcs", "flink")

_which = options(
    click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("adtally-local"),
        show_default=True,
        help="For data, logs and what is known of the servers.",
    ),
    click.option(
        "--only",
        help=f"Some of {', '.join(SERVERS)}, with commas between.  [default: all]",
    ),
)


_PIPED_WIDTH: Final = 200


class Port(click.ParamType):
    """``SERVER=PORT``."""

    name = "server=port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        server, _, port = str(value).partition("=")
        if server not in SERVERS or not port.isdigit() or not 0 < int(port) < 65_536:
            self.fail(f"{value!r}; write SERVER=PORT, such as kinesis=4567.", param, ctx)
        return server, int(port)


@click.group()
def local() -> None:
    """Real servers on this machine: Elasticsearch, Kinesis, Pub/Sub, S3, GCS, a Flink cluster.

    They need Java, Maven and Node.js, Pub/Sub and GCS need Go; everything else is fetched from
    package registries, once. They listen on 127.0.0.1 alone.
    """


@local.command()
@_which
@click.option("--port", "ports", multiple=True, type=Port(), help="SERVER=PORT; may be repeated.")
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="NAME[:SHARDS]",
    help="Make a Kinesis stream if there is none of this name; 2 shards unless told.",
)
@click.option(
    "--topic",
    "topics",
    multiple=True,
    metavar="NAME",
    help="Make a Pub/Sub topic and a subscription of its name, if there are none.",
)
def up(
    folder: Path,
    only: str | None,
    ports: tuple[tuple[str, int], ...],
    streams: tuple[str, ...],
    topics: tuple[str, ...],
) -> None:
    """Start what does not run, wait until it answers, and say how to use it. Safe to repeat.

    Without Go, Pub/Sub and GCS are left out unless --only names them.
    """
    from adtally.runners.local.kinesis_server import make_stream
    from adtally.runners.local.pubsub_server import make_subscription
    from adtally.runners.local.service import MissingSystemPart, ServiceFailed
    from adtally.runners.local.stack import Stack

    console = Console(stderr=True)
    try:
        state = Stack(folder).up(_possible(only, console.print), dict(ports), console.print)
    except (MissingSystemPart, ServiceFailed) as error:
        sys.exit(f"adtally: {error}")
    for stream in streams:
        name, _, shards = stream.partition(":")
        make_stream(f"http://{_host(state, 'kinesis', '--stream')}", name, int(shards or 2))
    for topic in topics:
        make_subscription(_host(state, "pubsub", "--topic"), topic, topic)
    _show(state)
    _say_how(state, [stream.partition(":")[0] for stream in streams], list(topics))


@local.command()
@_which
def down(folder: Path, only: str | None) -> None:
    """End the servers; their data stays. Safe to repeat."""
    from adtally.runners.local.stack import Stack

    ended = Stack(folder).down(_servers(only))
    names = ", ".join(member.name for member in ended)
    click.echo(f"ended {names}" if names else "nothing was running", err=True)


@local.command()
@_which
def status(folder: Path, only: str | None) -> None:
    """Show the servers; ends with 1 if one that was started does not answer."""
    from adtally.runners.local.stack import Stack

    wanted = _servers(only)
    state = Stack(folder).state()
    state.members = [member for member in state.members if member.server in wanted]
    if not state.members:
        click.echo(f"nothing was started in {folder}; 'adtally local up' does.", err=True)
        sys.exit(1)
    if not _show(state):
        sys.exit(1)


def _host(state: State, server: str, option: str) -> str:
    """HOST:PORT of a server that runs."""
    if server not in {member.server for member in state.members}:
        raise click.UsageError(f"{option} needs {server}, which was not started.")
    return f"127.0.0.1:{state.ports[server]}"


def _servers(only: str | None) -> tuple[str, ...]:
    if only is None:
        return SERVERS
    chosen = tuple(name.strip() for name in only.split(",") if name.strip())
    unknown = sorted(set(chosen) - set(SERVERS))
    if unknown or not chosen:
        raise click.UsageError(f"--only {only}: choose from {', '.join(SERVERS)}.")
    return chosen


def _possible(only: str | None, told: Callable[[str], None]) -> tuple[str, ...]:
    """The servers that were asked for; of all, those of Go only if they are or can be built."""
    from adtally.runners.local import gcs_server, pubsub_server

    servers = _servers(only)
    if only is not None:
        return servers
    for name, server in (("pubsub", pubsub_server), ("gcs", gcs_server)):
        if missing := server.missing():
            told(f"{name} is left out. {missing}")
            servers = tuple(one for one in servers if one != name)
    return servers


def _show(state: State) -> bool:
    """Print a table; returns whether all is up."""
    table = Table(box=None)
    for name in ("server", "process", "pid", "state", "url", "log"):
        table.add_column(name, overflow="fold")
    members = [(member, member.state) for member in state.members]
    for member, found in members:
        place = os.path.relpath(member.log)
        table.add_row(member.server, member.name, str(member.pid), found, member.url, place)
    console = Console()
    if not console.is_terminal:  # addresses that are folded cannot be copied
        console.width = _PIPED_WIDTH
    console.print(table)
    return all(found == "up" for _, found in members)


def _say_how(state: State, streams: list[str], topics: list[str]) -> None:
    up = {member.server for member in state.members}
    source = streams[0] if streams else "STREAM"
    aws = up & {"kinesis", "s3"}
    lines = ["export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local"] if aws else []
    command = ["adtally stream --output out"]
    if "gcs" in up:
        lines += [
            "# gs:// as --input and --output; make buckets with Google's client or",
            f'# curl -X POST -H content-type:application/json -d \'{{"name":"BUCKET"}}\' '
            f"http://127.0.0.1:{state.ports['gcs']}/storage/v1/b",
            f"export STORAGE_EMULATOR_HOST=http://127.0.0.1:{state.ports['gcs']}",
        ]
    if "s3" in up:
        s3 = f"http://127.0.0.1:{state.ports['s3']}"
        lines += [
            "# s3:// as --input and --output; make buckets with an S3 client or",
            f"# curl -X PUT {s3}/BUCKET",
            f"# adtally backfill --input s3://BUCKET/logs/ --output s3://BUCKET/out "
            f"--s3_endpoint_url={s3}",
        ]
    if "kinesis" in up:
        kinesis = (
            f"--kinesis-region us-east-1 "
            f"--kinesis-endpoint http://127.0.0.1:{state.ports['kinesis']}"
        )
        lines += [
            "# your logs as a stream; what is older than --allowed-lateness (1h) would be late",
            f"adtally feed --input LOGS --to kinesis://{source} {kinesis}",
            "# summaries of it, live",
        ]
        command.append(f"--source kinesis://{source} {kinesis}")
    if "pubsub" in up:
        from adtally.runners.local.pubsub_server import PROJECT

        pubsub = f"--pubsub-endpoint 127.0.0.1:{state.ports['pubsub']}"
        topic = topics[0] if topics else "TOPIC"
        lines += [
            "# or by Pub/Sub",
            f"adtally feed --input LOGS --to pubsub://projects/{PROJECT}/topics/{topic} {pubsub}",
            f"# --source pubsub://projects/{PROJECT}/subscriptions/{topic} {pubsub}",
        ]
    if "elasticsearch" in up:
        command.append(
            f"--elasticsearch http://127.0.0.1:{state.ports['elasticsearch']} --elasticsearch-setup"
        )
    if "flink" in up:
        command.append(" ".join(state.flink_arguments))
    lines.append(" \\\n    ".join(command))
    click.echo("\n".join(lines))
