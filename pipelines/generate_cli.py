"""``adtally generate``."""

from __future__ import annotations

from typing import Any

import click

from adtally.pipelines.failures import CONTEXT, failures
from adtally.pipelines.options import Instant


@click.command(context_settings=CONTEXT)
@click.option("--events", type=click.IntRange(min=1), required=True, help="How many, about.")
@click.option("--seed", type=int, required=True, help="The same seed gives the same bytes.")
@click.option("--output", required=True, help="Folder for logs/ and truth/.")
@click.option("--advertisers", type=click.IntRange(min=1), default=2_000, show_default=True)
@click.option("--start", type=Instant(), default="2026-03-01", show_default=True)
@click.option("--hours", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--duplicates", type=float, default=0.01, show_default=True, help="Ratio.")
@click.option("--malformed", type=float, default=0.005, show_default=True, help="Ratio.")
@click.option("--late", type=float, default=0.002, show_default=True, help="Ratio.")
@click.option(
    "--crowds",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Offices behind one address, and launches with thousands at once: so many of each.",
)
@click.option("--compression", default="gzip", show_default=True, help="gzip, zstd or none.")
@click.option("--files-per-hour", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--time-format",
    default="rfc3339",
    show_default=True,
    help="rfc3339, epoch_ms or epoch_s; the epochs come with a mapping.toml.",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
def generate(**given: Any) -> None:
    """Make up events: seeded, realistic, dirty; with the truth beside them.

    Advertisers follow Zipf's law, hours a daily curve; there are bots, duplicates, look-alikes of
    duplicates, late and malformed records, several currencies.
    """
    with failures(given["debug"]):
        from adtally.io.synthetic import GenerateConfig
        from adtally.io.synthetic_logs import describe
        from adtally.io.synthetic_logs import generate as make

        config = GenerateConfig(
            events=given["events"],
            seed=given["seed"],
            output=given["output"],
            advertisers=given["advertisers"],
            start_ms=given["start"],
            hours=given["hours"],
            duplicate_ratio=given["duplicates"],
            malformed_ratio=given["malformed"],
            late_ratio=given["late"],
            compression=given["compression"],
            files_per_hour=given["files_per_hour"],
            time_format=given["time_format"],
            crowds=given["crowds"],
        )
        for line in describe(make(config)):
            click.echo(line)
        click.echo(f"logs   {given['output']}/logs")
        click.echo(f"truth  {given['output']}/truth")
