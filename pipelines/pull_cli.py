"""``adtally pull``."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import click
from rich.console import Console

from adtally.pipelines.failures import failures
from adtally.pipelines.options import (
    CommaList,
    Duration,
    Instant,
    PassThrough,
    config_option,
    elasticsearch_options,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of

_KINDS = ("summaries", "flags", "verdicts", "anomalies")


@click.command(cls=PassThrough)
@elasticsearch_options
@click.option(
    "--advertiser", "advertisers", multiple=True, metavar="ID", help="Whose; may be repeated."
)
@click.option("--all", "everyone", is_flag=True, help="All advertisers that Elasticsearch has.")
@click.option(
    "--database",
    metavar="URL",
    help="SQLAlchemy's URL with {advertiser} in it; sqlite or postgresql+psycopg. ${NAME} is taken "
    "from the environment.  [default: sqlite:///pulled/{advertiser}.db, or none with --databases]",
)
@click.option(
    "--databases",
    "databases_file",
    type=click.Path(dir_okay=False),
    help="URLs by advertiser: a TOML file with [databases], or a .csv of ADVERTISER,URL.",
)
@click.option("--schema", default="", help="PostgreSQL's schema; {advertiser} may be in it.")
@click.option(
    "--create-databases", is_flag=True, help="Make databases that a PostgreSQL server lacks."
)
@click.option(
    "--kinds",
    type=CommaList(click.Choice(_KINDS)),
    default=",".join(_KINDS),
    show_default=True,
    help="What to pull.",
)
@click.option(
    "--window", type=CommaList(Duration()), help="Summaries of these windows only, as 60s,1d."
)
@click.option("--from", "from_ms", type=Instant(), help="Windows that begin then or later.")
@click.option("--to", "to_ms", type=Instant(), help="Windows that begin before.")
@click.option(
    "--drop-missing-indices",
    "drop",
    is_flag=True,
    help="Delete rows of monthly indices that Elasticsearch has no more.",
)
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--every", type=Duration(), default="10s", show_default=True, help="Between rounds of --follow."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Databases at a time, of one server.",
)
@click.option("--quiet", is_flag=True, help="No progress; errors and the result only.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def pull(ctx: click.Context, /, **given: Any) -> None:
    """Bring what changed in Elasticsearch since the last pull into each advertiser's own database.

    Exit code 1: some databases failed; they are named, and all others are up to date. The same
    command again goes on where this one ended, however it ended.
    """
    with failures(given["debug"], "the same command again goes on from there"):
        ready(ctx)
        config = elasticsearch_of(given)
        if config is None:
            raise click.UsageError("--elasticsearch URL is needed: where to pull from.")
        if None not in (given["from_ms"], given["to_ms"]) and given["from_ms"] >= given["to_ms"]:
            raise click.UsageError("--from is not before --to, so every row would be deleted.")
        from adtally.io.pull_shards import Selection
        from adtally.io.pull_source import Source
        from adtally.pipelines.pull import Puller
        from adtally.pipelines.pull_roster import Plan

        plan = Plan(
            databases=databases_of(given),
            advertisers=whose(given),
            workers=given["workers"],
            drop=given["drop"],
        )
        selection = Selection(
            kinds=given["kinds"],
            window_seconds=given["window"] or (),
            from_ms=given["from_ms"],
            to_ms=given["to_ms"],
        )
        console = Console(stderr=True)
        with contextlib.closing(Source(config, selection)) as source:
            puller = Puller(source, plan)
            with contextlib.closing(puller):
                _run(puller, console, given)


def _run(puller: Any, console: Console, given: dict[str, Any]) -> None:
    from adtally.pipelines.pull_report import show, watching

    begun = time.monotonic()
    with watching(puller, console, quiet=given["quiet"]):
        if given["follow"]:
            puller.follow(given["every"])
        totals = puller.once()
    show(totals, time.monotonic() - begun, console)
    if totals.failed:
        sys.exit(1)


def whose(given: dict[str, Any]) -> tuple[str, ...] | None:
    """The advertisers that are named; None for all."""
    if bool(given["advertisers"]) == given["everyone"]:
        raise click.UsageError("say whose: --advertiser ID (may be repeated), or --all.")
    return None if given["everyone"] else tuple(dict.fromkeys(given["advertisers"]))


def databases_of(given: dict[str, Any]) -> Any:
    """Which database is whose.

    Raises:
        DatabaseConfigError: that cannot work.
    """
    from adtally.io.pull_databases import DEFAULT, DatabaseConfigError, Databases, read_databases

    path = given["databases_file"]
    databases = Databases(
        template=given["database"] or (None if path else DEFAULT),
        schema=given["schema"],
        named=read_databases(path) if path else {},
        create=given["create_databases"],
    )
    several = given["everyone"] or len(given["advertisers"]) > 1
    if databases.template is not None and several and not databases.tells_apart:
        raise DatabaseConfigError(
            "--database has no {advertiser}, so the rows of all advertisers would be in one "
            "database; put it into the URL or into --schema."
        )
    for advertiser in given["advertisers"]:
        if databases.of(advertiser) is None:
            raise DatabaseConfigError(
                f"{path} has no database for {advertiser!r}; add it, or give --database too."
            )
    return databases
