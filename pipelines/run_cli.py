"""What the commands that run the graph share: their request, their progress, their result."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from adtally.io.shown import shown_line
from adtally.pipelines.options import ready


def request_of(ctx: click.Context, given: dict[str, Any]) -> Any:
    from adtally.pipelines.backfill import Request
    from adtally.pipelines.requests import settings_for
    from adtally.transforms.mapping import identity_mapping, load_mapping

    ready(ctx)
    return Request(
        inputs=given["inputs"],
        output=given["output"],
        settings=settings_for(given),
        mapping=load_mapping(given["mapping"]) if given["mapping"] else identity_mapping(),
        elasticsearch=elasticsearch_of(given),
        from_ms=given["from_ms"],
        to_ms=given["to_ms"],
        block_bytes=given["block_size"] << 20,
        runner=given["runner"],
        beam_arguments=tuple(ctx.args),
    )


def elasticsearch_of(given: dict[str, Any]) -> Any:
    if not given["elasticsearch"]:
        return None
    from adtally.pipelines.requests import elasticsearch_config

    return elasticsearch_config(given)


def install_templates(request: Any) -> None:
    from adtally.io import elasticsearch as sink

    if request.elasticsearch is None:
        raise click.UsageError("--elasticsearch-setup needs --elasticsearch URL.")
    with contextlib.closing(sink.connect(request.elasticsearch)) as client:
        sink.install_templates(client, request.elasticsearch)


def watch(console: Console, given: dict[str, Any]) -> Any:
    from adtally.pipelines.progress import Watch

    return Watch(console, quiet=given["quiet"])


def show_outcome(outcome: Any, console: Console) -> None:
    from adtally.pipelines.report import show

    show(outcome.report, console)
    job = outcome.job
    for path in outcome.passed_over[:10]:
        console.print(f"passed over: {escape(shown_line(path))}", soft_wrap=True, highlight=False)
    if len(outcome.passed_over) > 10:
        console.print(f"and {len(outcome.passed_over) - 10} more")
    if outcome.removed_documents:
        console.print(f"removed {outcome.removed_documents:,} documents of earlier generations")
    output = escape(shown_line(job.output.rstrip("/")))
    console.print(f"output   {output}", soft_wrap=True)
    console.print(f"look     duckdb -init {output}/views.sql", soft_wrap=True)
    console.print(f"record   {escape(shown_line(outcome.record))}", soft_wrap=True)


def limit_dead_letters(report: Any, limit: float | None) -> None:
    if limit is not None and report.dead_letter_ratio > limit:
        click.echo(
            f"adtally: {report.dead_letter_ratio:.3%} of the records are dead letters, more than "
            f"--max-dead-letter-ratio {limit:.3%}. Everything was written; see dead-letters/.",
            err=True,
        )
        sys.exit(1)
