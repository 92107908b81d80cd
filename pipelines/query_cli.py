"""``adtally query``: SQL over an output."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from adtally.pipelines.failures import failures
from adtally.pipelines.options import CommaList, Instant, PassThrough, config_option, ready

if TYPE_CHECKING:
    import pyarrow as pa

    from adtally.pipelines.query import Cost


@click.command(cls=PassThrough)
@click.argument("sql", metavar="SQL")
@click.option("--output", required=True, help="Folder or URI of an output of adtally.")
@click.option(
    "--from",
    "from_ms",
    type=Instant(),
    metavar="TIME",
    help="See windows that begin at this time or later; UTC unless it has an offset.",
)
@click.option(
    "--to", "to_ms", type=Instant(), metavar="TIME", help="See windows that end by this time."
)
@click.option(
    "--advertiser",
    type=CommaList(click.STRING),
    default=(),
    help="See these advertisers alone; several by commas.",
)
@click.option(
    "--format",
    type=click.Choice(("table", "csv", "json", "parquet")),
    help="json is an object a line.  [default: that of the file's ending, else table]",
)
@click.option("--save", metavar="FILE", help="File or URI for the answer; it is replaced.")
@click.option(
    "--rows", type=click.IntRange(min=1), default=200, show_default=True, help="Most of a table."
)
@click.option("--explain", is_flag=True, help="Say how it is read, and how much of the output.")
@click.option(
    "--memory", metavar="SIZE", help="Such as 2GB; more spills to disk.  [default: 80% of it]"
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: all cores]")
@click.option(
    "--temp",
    type=click.Path(file_okay=False, exists=True),
    help="Where it spills.  [default: the system's folder]",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def query(
    ctx: click.Context,
    /,
    sql: str,
    output: str,
    from_ms: int | None,
    to_ms: int | None,
    advertiser: tuple[str, ...],
    format: str | None,
    save: str | None,
    rows: int,
    explain: bool,
    memory: str | None,
    threads: int | None,
    temp: str | None,
    debug: bool,
) -> None:
    """Ask an output in SQL (DuckDB's): one SELECT, or - for the query on standard input.

      adtally query "SHOW TABLES" --output out/

      adtally query "FROM net_summaries_by('month')" --output out/ --save march.csv

    The views are those of views.sql; the roll-ups summaries_by and net_summaries_by take 'hour',
    'day', 'week', 'month', 'quarter' or 'year'. --from, --to and --advertiser have only the files
    and parts of files read that can hold what they name; so have conditions on advertiser_id, and
    on date and hour of events. Nothing can be changed. docs/analysis.md.
    """
    from adtally.io.stored import Restriction
    from adtally.pipelines.query import Limits, Query

    ready(ctx)
    form = _form(format, save, output)
    text = sys.stdin.read() if sql == "-" else sql
    seen = Restriction(from_ms, to_ms, advertiser)
    with (
        failures(debug, "nothing was changed"),
        Query(output, seen, Limits(memory, threads, temp)) as asked,
    ):
        if explain:
            begun = time.monotonic()
            _tell(asked.explain(text), time.monotonic() - begun)
        else:
            _give(asked.ask(text), form, save, rows)


def _form(form: str | None, save: str | None, output: str) -> str:
    """How the answer is written.

    Raises:
        click.UsageError: it cannot be; says what to give.
    """
    from adtally.pipelines.answer_files import form_of

    if save is None:
        if form == "parquet":
            raise click.UsageError("--format parquet needs a file; give --save FILE.parquet.")
        return form or "table"
    if form == "table":
        raise click.UsageError("--format table is for looking at; save csv, json or parquet.")
    return form_of(form, save, output)


def _give(answer: pa.RecordBatchReader, form: str, save: str | None, most: int) -> None:
    from adtally.pipelines.answer_files import save_rows
    from adtally.pipelines.answers import WRITERS, show

    if save is not None:
        total = save_rows(answer, form, save)
        click.echo(f"{total:,} rows in {save}", err=True)
        return
    try:
        if form != "table":
            WRITERS[form](answer, sys.stdout.buffer)
        elif show(answer, Console(), most) > most:
            click.echo(f"... and more; --rows shows more than {most:,}, --save has all.", err=True)
        sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`: there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(cost: Cost, seconds: float) -> None:
    click.echo(cost.plan.rstrip())
    read, whole = cost.bytes_read, cost.bytes_stored
    amount = "not known on this system" if read is None else _share(read, whole)
    click.echo(f"bytes read       {amount}")
    click.echo(f"files read       {cost.files_read:,} of {cost.files:,} that may be read")
    click.echo(f"row groups read  {cost.row_groups_read:,} of {cost.row_groups:,} in these")
    if cost.requests:
        click.echo(f"requests         {cost.requests:,}")
    click.echo(f"seconds          {seconds:.2f}")


def _share(read: Any, whole: int) -> str:
    return f"{read:,} of {whole:,}" + (f" ({read / whole:.2%})" if whole else "")
