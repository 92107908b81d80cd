"""``adtally report``: one advertiser's day as a file."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from adtally.io.shown import shown_line
from adtally.pipelines.failures import failures
from adtally.pipelines.options import PassThrough, Zone, config_option, ready


class Date(click.ParamType):
    """A day, ``2026-03-01``."""

    name = "date"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime.date:
        if isinstance(value, datetime.date):
            return value
        try:
            return datetime.date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no day; write it as 2026-03-01.", param, ctx)


@click.command(cls=PassThrough)
@click.option("--output", required=True, help="Folder or URI of an output of adtally.")
@click.option("--advertiser", required=True, metavar="ID", help="Whose day.")
@click.option("--date", required=True, type=Date(), help="Such as 2026-03-01.")
@click.option(
    "--time-zone",
    type=Zone(),
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="Where the day begins and ends, such as Europe/Berlin.",
)
@click.option(
    "--to",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The HTML file; it is replaced.",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def report(ctx: click.Context, /, **given: Any) -> None:
    """One advertiser's day as one HTML file with charts, to send to a customer.

    Gross beside net, by the hour and by the first dimension; why events are invalid, with event ids
    as evidence but without whom it is about; unusual minutes; and whether all of it is final.
    Nothing in it is loaded from elsewhere. docs/report.md.
    """
    with failures(given["debug"], "nothing was written"):
        from adtally.io.files import atomic_write
        from adtally.pipelines.daily import day
        from adtally.pipelines.daily_page import page

        ready(ctx)
        read = day(given["output"], given["advertiser"], given["date"], given["time_zone"].key)
        text = page(read)
        with atomic_write(str(given["to"].absolute())) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
        state = "final" if read.final else "provisional"
        click.echo(shown_line(f"{given['to']}: {len(text):,} characters, {state}"))
