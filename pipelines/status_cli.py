"""``adtally status``: for people and monitors."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from adtally.io.shown import shown_line
from adtally.pipelines.failures import failures
from adtally.pipelines.options import (
    Duration,
    PassThrough,
    config_option,
    elasticsearch_options,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of


@click.command(cls=PassThrough)
@click.option("--output", help="Folder or URI of an output of adtally.")
@elasticsearch_options
@click.option(
    "--format",
    type=click.Choice(("table", "json", "prometheus")),
    default="table",
    show_default=True,
)
@click.option(
    "--max-lag",
    type=Duration(),
    help="Age of the newest event counted in Elasticsearch, or without one, in Parquet.",
)
@click.option(
    "--max-output-lag", type=Duration(), help="Age of the newest event counted in Parquet."
)
@click.option("--max-dead-letters-per-hour", type=click.IntRange(min=0))
@click.option("--max-late-per-hour", type=click.IntRange(min=0))
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def status(ctx: click.Context, /, format: str, **given: Any) -> None:
    """Say how fresh what is stored is, and what did not get into it.

    Of --output, --elasticsearch or both.

    Exit code 0 where no limit is broken, 1 where one is, or something cannot be read, 2 for wrong
    usage. docs/monitoring.md.
    """
    from adtally.pipelines import status as states

    ready(ctx)
    with failures(given["debug"], "nothing was changed"):
        elastic = elasticsearch_of(given)
        if given["output"] is None and elastic is None:
            raise click.UsageError("there is nothing to look at; give --output, --elasticsearch.")
        limits = states.Limits(
            given["max_lag"],
            given["max_output_lag"],
            given["max_dead_letters_per_hour"],
            given["max_late_per_hour"],
        )
        of_output = (limits.output_lag_seconds, limits.dead_letters, limits.late)
        if given["output"] is None and any(limit is not None for limit in of_output):
            raise click.UsageError(
                "dead letters, late events and the lag of Parquet lie in an output; give --output."
            )
        seen = states.status(given["output"], elastic, limits)
        if format == "json":
            click.echo(msgspec.json.encode(states.as_json(seen)).decode())
        elif format == "prometheus":
            click.echo(states.as_prometheus(seen.metrics()), nl=False)
        else:
            rows = list(states.as_rows(seen))
            width = max(len(name) for name, _ in rows)
            for name, text in rows:
                click.echo(shown_line(f"{name:{width}}  {text}"))
        for line in seen.broken:
            click.echo(f"adtally: {line}", err=True)
    if seen.broken:
        sys.exit(1)
