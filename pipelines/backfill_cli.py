"""``adtally backfill`` and ``adtally replay``."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from adtally.pipelines.failures import failures
from adtally.pipelines.limit_options import limit_options
from adtally.pipelines.options import (
    Instant,
    PassThrough,
    config_option,
    elasticsearch_options,
    output_option,
    run_options,
    setup_option,
    tally_options,
)
from adtally.pipelines.run_cli import (
    install_templates,
    limit_dead_letters,
    request_of,
    show_outcome,
    watch,
)


@click.command(cls=PassThrough)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="PATH...",
    help="Files, directories, or quoted patterns of JSON-lines logs (plain, gzip, zstd, bzip2), "
    "local, s3:// or gs://. Give OUTPUT/events to tally a range again.",
)
@output_option
@click.option("--from", "from_ms", type=Instant(), help="Tally events from this time on.")
@click.option("--to", "to_ms", type=Instant(), help="Tally events before this time.")
@tally_options
@limit_options
@elasticsearch_options
@setup_option
@run_options
@config_option
@click.pass_context
def backfill(ctx: click.Context, /, **given: Any) -> None:
    """Read historical logs; write event log, summaries, flags and dead letters.

    Every option can also be set as ADTALLY_NAME in the environment, or in a --config file.
    """
    with failures(given["debug"]):
        from adtally.pipelines import backfill as runs

        request = request_of(ctx, given)
        if given["elasticsearch_setup"]:
            install_templates(request)
        console = Console(stderr=True)
        outcome = runs.backfill(request, watch(console, given))
        show_outcome(outcome, console)
        limit_dead_letters(outcome.report, given["max_dead_letter_ratio"])


@click.command(cls=PassThrough)
@click.option(
    "--dead-letters",
    help="Folder of dead letters.  [default: OUTPUT/dead-letters]",
)
@output_option
@tally_options
@limit_options
@elasticsearch_options
@run_options
@config_option
@click.pass_context
def replay(ctx: click.Context, /, **given: Any) -> None:
    """Decode dead letters again, append them to the log, and re-tally the windows they touch.

    Use it after the mapping was corrected. Records keep their identity, so nothing counts twice.
    """
    with failures(given["debug"]):
        from adtally.pipelines.replay import replay as run
        from adtally.pipelines.report import show

        request = request_of(ctx, {**given, "inputs": (), "from_ms": None, "to_ms": None})
        console = Console(stderr=True)
        folder = given["dead_letters"] or request.output.rstrip("/") + "/dead-letters"
        done = run(request, folder, watch(console, given))
        show(done.decoded, console)
        if done.correction is not None:
            show_outcome(done.correction, console)
        limit_dead_letters(done.decoded, given["max_dead_letter_ratio"])
