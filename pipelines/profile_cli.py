"""``adtally profile``: the season of the day, from what is stored."""

from __future__ import annotations

import click
from rich.console import Console

from adtally.pipelines.options import PassThrough, output_option, ready


@click.command(cls=PassThrough)
@output_option
@click.option(
    "--days",
    type=click.IntRange(min=3),
    default=28,
    show_default=True,
    help="Go by so many whole days, the newest.",
)
@click.argument("path", metavar="PROFILE.parquet")
@click.pass_context
def profile(ctx: click.Context, /, output: str, days: int, path: str) -> None:
    """Learn how each advertiser's traffic is spread over the hours of the day.

    From the summaries in OUTPUT, of three whole days (UTC) at least. Name the profile in the file
    of rules, and anomalies are judged by it:

      [lists]
      season = "PROFILE.parquet"
    """
    from apache_beam.io.filesystem import BeamIOError

    from adtally.pipelines.job import ConfigError
    from adtally.pipelines.profile import profile as make

    ready(ctx)
    console = Console(stderr=True)
    try:
        with console.status("reading summaries") as status:
            done = make(output, path, days, lambda date: status.update(f"reading {date}"))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except (OSError, BeamIOError) as error:
        raise click.ClickException(f"failed: {error}") from error
    click.echo(f"days         {len(done.dates)}, from {done.dates[0]} to {done.dates[-1]}")
    click.echo(f"advertisers  {done.advertisers:,}; with too few events: {done.left_out:,}")
    click.echo(f"profile      {done.path}")
