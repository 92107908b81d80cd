"""``adtally erase``: a tenant or a user taken out of an output and of Elasticsearch."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from adtally.io.shown import shown_line
from adtally.pipelines.failures import failures
from adtally.pipelines.options import (
    PassThrough,
    config_option,
    elasticsearch_options,
    output_option,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of

_WHAT: Final = {
    "rows": "rows",
    "shared": "clicks of others from their addresses",
    "letters": "dead letters",
    "alerts": "alerts",
    "inputs": "addresses of inputs",
    "unfinished": "left by runs that were killed",
}


@click.command(cls=PassThrough)
@output_option
@click.option("--advertiser", metavar="ID", help="The tenant; all of its rows are removed.")
@click.option(
    "--user",
    metavar="ID",
    help="A user, as records name it, not the pseudonym. With --advertiser, at that one only.",
)
@click.option(
    "--alerts",
    multiple=True,
    metavar="PATH",
    help="File or folder of alerts that a stream wrote; several are fine.",
)
@click.option(
    "--mapping",
    type=click.Path(dir_okay=False),
    help="How records became events, to find dead letters by their fields.",
)
@click.option(
    "--pii-key-file",
    metavar="FILE",
    help="Key of the pseudonyms of --pii hash.  [default: the output's]",
)
@click.option(
    "--rules",
    metavar="FILE",
    help="Invalid-traffic rules, for who is on an allow-list.  [default: the output's]",
)
@elasticsearch_options
@click.option("--dry-run", is_flag=True, help="Say what there is; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--quiet", is_flag=True, help="No progress; errors and the result only.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def erase(ctx: click.Context, /, **given: Any) -> None:
    """Take a tenant, or a user, out of everything below OUTPUT, and out of Elasticsearch.

    A tenant's rows, documents and dead letters are removed. A user's events stay and count as
    before: user, address, browser, URL and unknown fields are replaced or removed, so nobody can
    tell whose they were; dead letters and alerts that name the user are removed.

    Keep the subject out at the source first: what a stream still reads is written again. The input
    logs, backups and old versions of objects are yours to erase. docs/privacy.md.
    """
    with failures(given["debug"], "the same command again completes it"):
        from adtally.pipelines import erase as erasing
        from adtally.transforms.mapping import identity_mapping, load_mapping

        ready(ctx)
        if not (given["advertiser"] or given["user"]):
            raise click.UsageError("say whom: --advertiser ID or --user ID.")
        request = erasing.Request(
            output=given["output"],
            advertiser=given["advertiser"],
            user=given["user"],
            mapping=load_mapping(given["mapping"]) if given["mapping"] else identity_mapping(),
            alerts=given["alerts"],
            elasticsearch=elasticsearch_of(given),
            pii_key_file=given["pii_key_file"],
            rules=given["rules"],
        )
        console = Console(stderr=True)
        with _Shown(console, given["quiet"]) as tell:
            if given["dry_run"] or not given["yes"]:
                found = erasing.look(request, tell)
                _show(found.found, "would be erased", request, console)
        if given["dry_run"]:
            return
        if not given["yes"]:
            if not sys.stdin.isatty():
                raise click.UsageError("nothing was changed; say --yes to erase what is listed.")
            if not click.confirm("Erase this? It cannot be undone", err=True):
                raise click.ClickException("nothing was changed.")
        with _Shown(console, given["quiet"]) as tell:
            done = erasing.erase(request, tell)
        _show(done.found, "erased", request, console)
        for path in done.unsearched:
            console.print(
                f"{escape(shown_line(path))} is being written, or was left by a crash within the "
                f"hour; it was not searched. Run the same command again in an hour.",
                soft_wrap=True,
            )
        console.print(f"record  {done.record}", soft_wrap=True)


class _Shown(Progress):
    """Progress by place; calling it is telling it."""

    def __init__(self, console: Console, quiet: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        super().__init__(*columns, console=console, transient=True, disable=quiet)
        self._task: Any = None

    def __call__(self, place: str, done: int, of: int) -> None:
        if self._task is None:
            self._task = self.add_task(place)
        self.update(self._task, description=place, completed=done, total=of)

    def __enter__(self) -> _Shown:
        super().__enter__()
        return self


def _show(found: dict[str, Counter[str]], what: str, request: Any, console: Console) -> None:
    table = Table(title=what, title_justify="left")
    table.add_column("where")
    table.add_column("files", justify="right")
    table.add_column("what")
    for place, counts in found.items():
        said = [f"{counts[name]:,} {_WHAT.get(name, name)}" for name in counts if name != "files"]
        files = "" if place == "elasticsearch" else f"{counts['files']:,}"
        table.add_row(place, files, ", ".join(said) or "nothing")
    console.print(table)
    if request.elasticsearch is None:
        console.print("Elasticsearch was not looked at: give --elasticsearch if it has documents.")
    if not request.alerts:
        console.print("Alerts were not looked at: give --alerts if a stream wrote some.")
