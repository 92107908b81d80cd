"""``adtally elasticsearch``."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from adtally.pipelines.failures import CONTEXT, failures
from adtally.pipelines.options import (
    Duration,
    PassThrough,
    config_option,
    elasticsearch_options,
    options,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of

_shared = options(elasticsearch_options, click.option("--debug", is_flag=True), config_option)


@click.group(context_settings=CONTEXT)
def elasticsearch() -> None:
    """Prepare Elasticsearch, and keep it in order."""


@contextlib.contextmanager
def _connected(ctx: click.Context, given: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The client and its config, of a command that has ``--elasticsearch``."""
    with failures(given["debug"]):
        from adtally.io.elasticsearch import connect

        ready(ctx)
        config = elasticsearch_of(given)
        if config is None:
            raise click.UsageError("--elasticsearch URL is needed: which cluster.")
        with contextlib.closing(connect(config)) as client:
            yield client, config


@elasticsearch.command(cls=PassThrough)
@click.option(
    "--roles",
    is_flag=True,
    help="Install roles as well: PREFIX-writer, -reader, -tenant, -puller, -operator.",
)
@_shared
@click.pass_context
def setup(ctx: click.Context, /, **given: Any) -> None:
    """Install the index templates. Safe to repeat; existing indices are not changed."""
    with _connected(ctx, given) as (client, config):
        from adtally.io.elasticsearch import install_templates
        from adtally.io.elasticsearch_security import install_roles

        for line in install_templates(client, config):
            click.echo(line)
        for line in install_roles(client, config) if given["roles"] else ():
            click.echo(line)


@elasticsearch.command(cls=PassThrough)
@click.option(
    "--role",
    type=click.Choice(("writer", "reader", "tenant", "puller", "operator")),
    required=True,
    help="What it may: a stream or backfill writes, a service reads all, a tenant its own, and "
    "'operator' is for these commands and erasures.",
)
@click.option("--advertiser", metavar="ID", help="Whose documents a tenant's key shows.")
@click.option("--expires", type=Duration(), help="Such as 90d.  [default: never]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="New file for the key, readable by its owner alone.  [default: print it, once]",
)
@_shared
@click.pass_context
def key(ctx: click.Context, /, **given: Any) -> None:
    """Make an API key, for --elasticsearch-api-key-file. Each time another one.

    It needs a user with a password: a key cannot make keys.
    """
    tenant, out = given["role"] == "tenant", given["out"]
    if tenant != bool(given["advertiser"]):
        raise click.UsageError("--role tenant and --advertiser ID go together.")
    if out is not None and out.exists():
        raise click.UsageError(f"{out} is there already, and may hold another key; name a new one.")
    with _connected(ctx, given) as (client, config):
        from adtally.io.elasticsearch_security import create_key, new_secret

        with contextlib.nullcontext(click.echo) if out is None else new_secret(out) as tell:
            made = create_key(client, config, given["role"], given["advertiser"], given["expires"])
            tell(made.encoded)
        click.echo(f"key {made.name}, id {made.id}: made", err=True)


@elasticsearch.command(cls=PassThrough)
@click.option("--advertiser", "advertisers", multiple=True, metavar="ID", help="Several are fine.")
@click.option(
    "--advertisers-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="One id a line.",
)
@click.option("--all", "everybody", is_flag=True, help="All that have summaries.")
@click.option("--remove", is_flag=True, help="Take the aliases away; the documents stay.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=1_000,
    show_default=True,
    help="Tenants that may have aliases.",
)
@_shared
@click.pass_context
def tenants(ctx: click.Context, /, **given: Any) -> None:
    """Give tenants aliases that show their own documents, with their routing.

    PREFIX-tenant-summaries-NAME, and of flags, verdicts and anomalies; in all indices, and those to
    come. They help a service that asks on behalf of tenants, and keep nobody apart by themselves:
    docs/tenants.md. Safe to repeat. Prints a tenant's id and the name in its aliases, with a tab
    between.
    """
    wanted = list(given["advertisers"])
    if given["advertisers_file"]:
        lines = given["advertisers_file"].read_text(encoding="utf-8").splitlines()
        wanted += [line for line in lines if line]
    if not wanted and not given["everybody"]:
        raise click.UsageError("say whom: --advertiser ID, --advertisers-file FILE or --all.")
    with _connected(ctx, given) as (client, config):
        from adtally.io import elasticsearch_tenants as aliases
        from adtally.io.shown import shown_line

        if given["everybody"]:
            wanted += aliases.advertisers_in(client, config)
        unique = list(dict.fromkeys(wanted))
        if given["remove"]:
            done = aliases.take_aliases(client, config, unique)
        else:
            done = aliases.give_aliases(client, config, unique, given["most"])
        for line in done:
            click.echo(line, err=True)
        for one in unique:
            click.echo(f"{shown_line(one)}\t{aliases.safe_name(one)}")


@elasticsearch.command(cls=PassThrough)
@click.option("--summaries", type=Duration(), metavar="AGE", help="Keep them so long: 400d.")
@click.option("--flags", type=Duration(), metavar="AGE")
@click.option("--verdicts", type=Duration(), metavar="AGE")
@click.option("--anomalies", type=Duration(), metavar="AGE")
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@_shared
@click.pass_context
def retain(ctx: click.Context, /, **given: Any) -> None:
    """Remove monthly indices that ended longer ago than AGE. Safe to repeat, so fit for cron.

    A month goes as a whole, or not at all; kinds without an AGE stay.
    """
    from adtally.io import elasticsearch_retain as retention
    from adtally.io.elasticsearch import KINDS

    ages = {kind: given[kind] for kind in KINDS if given[kind] is not None}
    if not ages:
        raise click.UsageError("say what to keep, and how long, such as --flags 90d.")
    with _connected(ctx, given) as (client, config):
        retention.check_ages(ages)
        found = retention.old_indices(client, config, ages, datetime.datetime.now(datetime.UTC))
        verb = "would be removed" if given["dry_run"] else "removed"
        for kind, indices in found.items():
            for index in indices:
                if not given["dry_run"]:
                    retention.remove(client, config, index)
                size = f"{index.documents:,} documents, {index.store_bytes / 1e6:,.1f} MB"
                click.echo(f"{index.name}: {verb}, {size}")
            if not indices:
                click.echo(f"{kind}: no month ended longer ago than {ages[kind] / 86_400:g} days")
