"""``adtally dashboard`` and ``adtally dashboard-token``."""

from __future__ import annotations

from typing import Any

import click

from adtally.pipelines.failures import failures
from adtally.pipelines.options import PassThrough, Zone, config_option, elasticsearch_options, ready
from adtally.pipelines.run_cli import elasticsearch_of

PORT = 8050


@click.command(cls=PassThrough)
@click.option("--output", required=True, help="Folder or URI of an output of adtally.")
@elasticsearch_options
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; ::1 is one too."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=PORT,
    show_default=True,
    help="0 for any that is free.",
)
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Who may see what; 'adtally dashboard-token' writes it.  [default: all see all]",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Name that browsers call it by, through a reverse proxy; may be given several times.",
)
@click.option(
    "--tls-certificate",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="PEM; needed where --host is not this machine alone.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Its private key, PEM, if it is not in the same file.",
)
@click.option(
    "--time-zone",
    type=Zone(),
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="Of all clocks, such as Europe/Berlin.",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def dashboard(ctx: click.Context, /, **given: Any) -> None:
    """Show what is stored as web pages: series, verdicts, freshness, dead letters.

    Reads from --elasticsearch what is newest, and from --output the rest, or without
    --elasticsearch everything; writes nothing. Ends with Ctrl-C. docs/dashboard.md.
    """
    with failures(given["debug"], "nothing was changed"):
        from adtally.pipelines.dashboard.serve import serve

        ready(ctx)
        serve(
            given["output"],
            elasticsearch_of(given),
            given["time_zone"],
            host=given["host"],
            port=given["port"],
            tokens=given["tokens"],
            allowed=given["allow_host"],
            certificate=given["tls_certificate"],
            key=given["tls_key"],
            told=lambda line: click.echo(line),
        )


@click.command(cls=PassThrough, name="dashboard-token")
@click.option(
    "--tokens",
    required=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="It is added to this file, which is made where there is none.",
)
@click.option("--name", required=True, help="Whose it is; shown on its pages.")
@click.option(
    "--advertiser",
    multiple=True,
    metavar="ID",
    help="It sees this one alone; may be given several times.  [default: all]",
)
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def dashboard_token(ctx: click.Context, /, **given: Any) -> None:
    """Make a token for the dashboard, and print it: the file keeps only its hash.

    A dashboard that runs knows it at once. Whoever's part is taken out of the file is kept out.
    """
    with failures(given["debug"], "nothing was changed"):
        from adtally.pipelines.dashboard.access import new_token

        ready(ctx)
        if "" in given["advertiser"]:
            raise click.UsageError("--advertiser is empty; leave it out for a token that sees all.")
        click.echo(new_token(given["tokens"], given["name"], given["advertiser"]))
