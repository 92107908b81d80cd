"""``adtally elasticsearch``."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from adtally.pipelines.failures import CONTEXT, failures
from adtally.pipelines.options import PassThrough, config_option, elasticsearch_options, ready
from adtally.pipelines.run_cli import elasticsearch_of


@click.group(context_settings=CONTEXT)
def elasticsearch() -> None:
    """Prepare Elasticsearch."""


@elasticsearch.command(cls=PassThrough)
@elasticsearch_options
@click.option("--debug", is_flag=True)
@config_option
@click.pass_context
def setup(ctx: click.Context, /, **given: Any) -> None:
    """Install the index templates. Safe to repeat; existing indices are not changed."""
    with failures(given["debug"]):
        from adtally.io import elasticsearch as sink

        ready(ctx)
        config = elasticsearch_of(given)
        if config is None:
            raise click.UsageError("--elasticsearch URL is needed: where to install templates.")
        client = sink.connect(config)
        with contextlib.closing(client):
            for line in sink.install_templates(client, config):
                click.echo(line)
