"""``adtally reconcile``: why two numbers differ, and what makes them equal again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from adtally.pipelines.failures import failures
from adtally.pipelines.options import (
    CommaList,
    Instant,
    PassThrough,
    config_option,
    elasticsearch_options,
    ready,
)
from adtally.pipelines.run_cli import elasticsearch_of, watch

if TYPE_CHECKING:
    from adtally.pipelines.reconcile import Asked, Found
    from adtally.pipelines.reconcile_repair import Repaired


@click.command(cls=PassThrough)
@click.option("--output", required=True, help="Folder or URI of an output of adtally.")
@elasticsearch_options
@click.option(
    "--from",
    "from_ms",
    type=Instant(),
    metavar="TIME",
    help="A whole hour, UTC.  [default: what is there; of a stream the last day that is final]",
)
@click.option("--to", "to_ms", type=Instant(), metavar="TIME", help="A whole hour, exclusive.")
@click.option(
    "--advertiser",
    type=CommaList(click.STRING),
    default=(),
    help="Compare these alone; several by commas.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Tally the hours that differ again, as the next generation, and compare once more.",
)
@click.option(
    "--trust-log",
    is_flag=True,
    help="Of a repair: also where summaries had seen more events than the log holds.",
)
@click.option("--fail-on-late", is_flag=True, help="Exit code 1 for late events, too.")
@click.option(
    "--rules",
    metavar="FILE",
    help="Invalid-traffic rules that the log is judged by.  [default: the output's]",
)
@click.option("--format", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.option(
    "--rows", type=click.IntRange(min=0), default=20, show_default=True, help="Most findings told."
)
@click.option("--save", metavar="FILE", help="All findings, as .csv, .json or .parquet.")
@click.option(
    "--save-rows", metavar="FILE", help="The rows of summaries that differ, stored and of the log."
)
@click.option("--memory", metavar="SIZE", help="Of the comparison, such as 2GB; more spills.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: all cores]")
@click.option(
    "--temp",
    type=click.Path(file_okay=False, exists=True),
    help="Where it spills.  [default: the system's folder]",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
@config_option
@click.pass_context
def reconcile(ctx: click.Context, /, **given: Any) -> None:
    """Hold summaries, flags and verdicts against the event log, tallied afresh.

      adtally reconcile --output out/ --elasticsearch URL --from 2026-03-01 --to 2026-03-02

    Each window of each advertiser is equal, late, missing, outdated, doubled, altered, judged by
    other rules, of a re-tally that did not end, or had seen events that the log does not hold, and
    why. Nothing is changed without --repair.

    Exit code 0 where all windows are equal or merely late, 1 where one is not, or something cannot
    be read, 2 for wrong usage. docs/reconcile.md.
    """
    ready(ctx)
    with failures(given["debug"], "what a repair wrote is seen when it is complete"):
        from adtally.pipelines.reconcile import reconcile as compare
        from adtally.pipelines.reconcile_repair import repair

        forms = _forms(given)
        asked = _asked(ctx, given)
        progress = watch(Console(stderr=True), given)
        found = compare(asked, progress)
        repaired = None
        if given["repair"]:
            repaired = repair(asked, found, given["trust_log"], progress)
        _tell(found, repaired, asked, given, forms)
        last = found if repaired is None or repaired.after is None else repaired.after
    from adtally.pipelines.reconcile_states import LATE

    if last.broken or (given["fail_on_late"] and last.windows(LATE)):
        sys.exit(1)


def _forms(given: dict[str, Any]) -> dict[str, str]:
    """How each file is written; found out before an hour of work.

    Raises:
        click.UsageError: options that do not fit each other.
    """
    from adtally.pipelines.answer_files import form_of

    if given["trust_log"] and not given["repair"]:
        raise click.UsageError("--trust-log is about what --repair may do; give --repair too.")
    if given["repair"] and given["advertiser"]:
        raise click.UsageError(
            "a repair tallies whole hours of all advertisers again, and has to know first that "
            "their log is whole; leave --advertiser out."
        )
    return {
        option: form_of(None, given[option], given["output"])
        for option in ("save", "save_rows")
        if given[option] is not None
    }


def _asked(ctx: click.Context, given: dict[str, Any]) -> Asked:
    from adtally.pipelines.backfill import Request
    from adtally.pipelines.query import Limits
    from adtally.pipelines.reconcile import Asked
    from adtally.pipelines.requests import stored_settings

    request = Request(
        inputs=(),
        output=given["output"],
        settings=stored_settings(given["output"], given["rules"]),
        elasticsearch=elasticsearch_of(given),
        from_ms=given["from_ms"],
        to_ms=given["to_ms"],
        beam_arguments=tuple(ctx.args),
    )
    limits = Limits(given["memory"], given["threads"], given["temp"])
    return Asked(request, given["advertiser"], limits, given["repair"])


def _tell(
    found: Found,
    repaired: Repaired | None,
    asked: Asked,
    given: dict[str, Any],
    forms: dict[str, str],
) -> None:
    from adtally.pipelines import reconcile_report as report
    from adtally.pipelines.answer_files import save_rows

    config, window = asked.request.elasticsearch, asked.request.settings.window_seconds
    after = None if repaired is None else repaired.after
    if given["format"] == "json":
        told = report.as_json(found, config, window, given["rows"])
        if repaired is not None:
            told["repaired"] = [list(one) for one in repaired.ranges]
            told["left"] = [list(one) for one in repaired.left]
        if after is not None:
            told["after"] = report.as_json(after, config, window, given["rows"])
        click.echo(msgspec.json.encode(told).decode())
    else:
        out = Console()
        report.show(found, config, window, given["rows"], out)
        if repaired is not None and not (repaired.ranges or repaired.left):
            out.print("nothing to repair")
        if repaired is not None and repaired.left:
            out.print(
                f"not repaired, as the log is short of events there (--trust-log would): "
                f"{report.ranges_told(repaired.left)}",
                soft_wrap=True,
            )
        if repaired is not None and after is not None and repaired.outcome is not None:
            generation = repaired.outcome.job.generation
            out.print(
                f"repaired as generation {generation}: {report.ranges_told(repaired.ranges)}; "
                f"compared once more:",
                soft_wrap=True,
            )
            report.show(after, config, window, given["rows"], out)
    if "save" in forms:
        total = save_rows(report.saved(found, config), forms["save"], given["save"])
        click.echo(f"{total:,} findings in {given['save']}", err=True)
    if "save_rows" in forms:
        rows = found.differing["summaries"].to_reader()
        total = save_rows(rows, forms["save_rows"], given["save_rows"])
        click.echo(f"{total:,} rows in {given['save_rows']}", err=True)
