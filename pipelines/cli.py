"""The command line of adtally. Exit codes: 0 done; 2 wrong usage or configuration; 1 failed;
130 interrupted."""

from __future__ import annotations

import click

from adtally.pipelines.athena_cli import athena
from adtally.pipelines.backfill_cli import backfill, replay
from adtally.pipelines.dashboard_cli import dashboard, dashboard_token
from adtally.pipelines.elasticsearch_cli import elasticsearch
from adtally.pipelines.erase_cli import erase
from adtally.pipelines.failures import CONTEXT
from adtally.pipelines.feed_cli import feed
from adtally.pipelines.generate_cli import generate
from adtally.pipelines.inspect_cli import convert, inspect
from adtally.pipelines.local_cli import local
from adtally.pipelines.probe_cli import probe
from adtally.pipelines.profile_cli import profile
from adtally.pipelines.pull_cli import pull
from adtally.pipelines.query_cli import query
from adtally.pipelines.reconcile_cli import reconcile
from adtally.pipelines.report_cli import report
from adtally.pipelines.status_cli import status
from adtally.pipelines.stream_cli import stream


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="adtally", message="%(prog)s %(version)s")
def cli() -> None:
    """Summaries and invalid-traffic flags per advertiser, from ad-tracking events.

    Start with logs that you have:

      adtally inspect logs/ --save mapping.toml

      adtally backfill --input logs/ --mapping mapping.toml --output out/

    or with made-up ones:

      adtally generate --events 100000 --seed 1 --output made-up/
    """


for command in (
    athena,
    backfill,
    convert,
    dashboard,
    dashboard_token,
    elasticsearch,
    erase,
    feed,
    generate,
    inspect,
    local,
    probe,
    profile,
    pull,
    query,
    reconcile,
    replay,
    report,
    status,
    stream,
):
    cli.add_command(command)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command ``adtally``."""
    cli.main(args=argv, prog_name="adtally")
