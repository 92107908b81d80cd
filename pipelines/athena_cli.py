"""``adtally athena``: the tables and views that query an output with Amazon Athena."""

from __future__ import annotations

import datetime

import click

from adtally.pipelines.options import PassThrough, config_option, output_option, ready


@click.command(cls=PassThrough)
@output_option
@click.option(
    "--location",
    metavar="s3://...",
    help="Where Athena finds the output, if that is not where it is now.  [default: OUTPUT]",
)
@click.option(
    "--since",
    default="2000-01-01",
    show_default=True,
    metavar="YYYY-MM-DD",
    help="First date of events, late events and dead letters. Earlier ones are not seen; a query "
    "that names no date looks for each date from this one on.",
)
@config_option
@click.pass_context
def athena(ctx: click.Context, /, output: str, location: str | None, since: str) -> None:
    """Print SQL that makes an output's tables and views in Athena: CREATE EXTERNAL TABLE, then
    CREATE VIEW.

    Athena runs one statement at a time. The views mean what those of views.sql mean; count through
    them.
    """
    from adtally.io.athena import table_sql, tables, views_sql
    from adtally.io.manifest import MANIFEST_NAME, ManifestError, read_manifest

    ready(ctx)
    place = (location or output).rstrip("/")
    if not place.startswith("s3://"):
        raise click.UsageError(
            f"Athena reads S3 alone, and {place} is not there; say with --location s3://... where "
            f"the output will lie."
        )
    try:
        datetime.date.fromisoformat(since)
    except ValueError as error:
        raise click.UsageError(f"--since {since!r} is no date; write it as 2026-03-01.") from error
    try:
        known = read_manifest(output)
    except (OSError, ManifestError) as error:
        raise click.ClickException(f"failed: {error}") from error
    if known is None:
        raise click.UsageError(
            f"{output} has no {MANIFEST_NAME}, so its window and dimensions are not known; run "
            f"'adtally backfill' or 'adtally stream' into it first."
        )
    for table in tables(known["dimensions"]):
        click.echo(table_sql(table, place, since))
    lateness = known["allowed_lateness_seconds"]
    click.echo(views_sql(known["window_seconds"], lateness, known["dimensions"]), nl=False)
