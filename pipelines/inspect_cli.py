"""``adtally inspect`` and ``adtally convert``: logs of other systems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adtally.io.shown import shown_line
from adtally.pipelines.failures import failures
from adtally.pipelines.options import PassThrough, Zone

if TYPE_CHECKING:
    from adtally.pipelines.inspect import Inspected

SHOWN: Final = 60
"""Characters of an example."""

TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@click.command(cls=PassThrough)
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "--time-zone",
    metavar="ZONE",
    type=Zone(),
    help="Of times that say none, such as Europe/Berlin.  [default: UTC is assumed, and said]",
)
@click.option("--currency", metavar="CODE", help="Of money, where records name none; such as EUR.")
@click.option(
    "--event-type",
    type=click.Choice(("impression", "click", "conversion")),
    help="Of all records, where nothing in them says it.",
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="New file for the mapping.  [default: it is printed]",
)
@click.option("--force", is_flag=True, help="Replace the file of --save.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
def inspect(logs: tuple[str, ...], **given: Any) -> None:
    """Look into logs of another system, and propose a mapping for them.

    LOG is a file, a folder or a pattern: JSON lines, or what 'adtally convert' makes JSON lines of.
    The begin of up to eight files is read and decoded with the proposal; nothing is changed.

    Exit code 0: everything became events, and nothing is doubtful. 1: look at what says CHECK, or
    at records that became none. 2: there is nothing to make events of. docs/mapping.md.
    """
    console = Console(stderr=True)
    with failures(given["debug"], "nothing was changed"):
        from adtally.pipelines import inspect as looking

        save: Path | None = given["save"]
        if save is not None and save.exists() and not given["force"]:
            raise click.UsageError(f"{save} is there already; --force replaces it.")
        zone = given["time_zone"]
        found = looking.inspect(logs, zone and zone.key, given["currency"], given["event_type"])
        _show(found, console)
        if save is None or not found.toml:
            click.echo(found.toml, nl=False)
        else:
            save.write_text(found.toml, encoding="utf-8")
        _next(found, logs[0] if len(logs) == 1 else "LOGS", save, console)
    if not found.usable:
        sys.exit(1)


def _show(found: Inspected, console: Console) -> None:
    def say(text: str) -> None:
        console.print(escape(shown_line(text)), soft_wrap=True, highlight=False)

    detail = f" ({found.sample.detail})" if found.sample.detail else ""
    say(f"{len(found.paths)} of {found.files:,} files looked into: {found.sample.format}{detail}")
    for reason in found.sample.rejected[:3]:
        say(f"a line has not the shape of the others: {reason}")
    if found.guesses:
        table = Table()
        for name in ("field", "from", "such as", ""):
            table.add_column(name, overflow="fold")
        for guess in found.guesses:
            cells = (guess.target, guess.seen.name, guess.seen.values[0][:SHOWN], guess.why)
            table.add_row(*(escape(shown_line(cell)) for cell in cells))
        console.print(table)
    _decoded(found, say)
    for name, why in found.missing.items():
        say(f"no {name}: {why}")
    if found.unread:
        say(f"kept in extra, as nothing reads them: {', '.join(found.unread[:30])}")
    for doubt in found.doubts:
        say(f"CHECK {doubt}")


def _decoded(found: Inspected, say: Any) -> None:
    from adtally.pipelines.inspect import span

    decoded = found.decoded
    events = decoded.events
    types = ", ".join(
        f"{one['counts']:,} {one['values']}s"
        for one in pc.value_counts(events["event_type"]).to_pylist()
    )
    say(f"of {decoded.records:,} records {decoded.records - decoded.dead:,} are events: {types}")
    if events.num_rows:
        first, last = span(decoded)
        advertisers = len(pc.unique(events["advertiser_id"]))
        say(f"of {advertisers:,} advertisers, from {first:{TIME}} to {last:{TIME}}")
    for reason, count in found.dead.most_common():
        letter = next(one for one in decoded.dead_letters if one.error_type == reason)
        text = letter.payload_bytes().decode("utf-8", "replace")[:SHOWN]
        say(f"dead letters: {count:,} {reason}, such as {letter.message}: {text}")


def _next(found: Inspected, logs: str, save: Path | None, console: Console) -> None:
    """What to do with it."""
    mapping = f" --mapping {save or 'mapping.toml'}" if found.toml else ""
    if found.sample.format != "json lines":
        comma = [
            f" --decimal-comma {guess.seen.source}"
            for guess in found.guesses
            if "decimal comma" in guess.why
        ]
        text = f"adtally convert {logs} --output converted/{''.join(comma)}"
        console.print(escape(shown_line(text)), soft_wrap=True, highlight=False)
        logs = "converted/"
    if not found.toml:
        console.print("the records have adtally's own names: no mapping is needed")
    text = f"adtally backfill --input {logs}{mapping} --output out/"
    console.print(escape(shown_line(text)), soft_wrap=True, highlight=False)


@click.command(cls=PassThrough)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the JSON lines, FILE.jsonl.gz each.",
)
@click.option(
    "--decimal-comma",
    "decimal_comma",
    multiple=True,
    metavar="COLUMN",
    help="Its numbers are written as 1.234,56.",
)
@click.option("--force", is_flag=True, help="Replace files of these names.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
def convert(files: tuple[str, ...], **given: Any) -> None:
    """Make JSON lines of CSV (and what is like it), JSON arrays and Parquet.

    Values stay as they are written. Lines of a table that have not the shape of the others are
    written beside the result, as _rejected-FILE.jsonl, and make the exit code 1. Give the same
    names to the same files: events without an id are told apart by file and place.
    """
    rejected = 0
    with failures(given["debug"], "the same command again, with --force, starts over"):
        from adtally.io.foreign import convert as converting
        from adtally.io.foreign import files_of, targets

        found = files_of(files)
        for file, target in zip(
            found, targets(found, given["output"], given["force"]), strict=True
        ):
            done = converting(file, target, given["decimal_comma"])
            click.echo(shown_line(f"{done.path}: {done.rows:,} records"))
            for reason in done.reasons:
                click.echo(shown_line(f"adtally: {file.path}: {reason}"), err=True)
            if done.rejected:
                click.echo(f"adtally: {done.rejected:,} lines were passed over", err=True)
            rejected += done.rejected
    if rejected:
        sys.exit(1)
