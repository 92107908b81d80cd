"""The command line of adtally. Exit codes: 0 done; 2 wrong usage or configuration; 1 failed;
130 interrupted."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from adtally.pipelines.athena_cli import athena
from adtally.pipelines.feed_cli import feed
from adtally.pipelines.local_cli import local
from adtally.pipelines.options import (
    Instant,
    PassThrough,
    config_option,
    elasticsearch_options,
    output_option,
    ready,
    run_options,
    tally_options,
)
from adtally.pipelines.profile_cli import profile
from adtally.pipelines.stream_cli import stream_options

USAGE_ERRORS = frozenset(
    {
        "AlertSinkError",
        "ConfigError",
        "DataflowError",
        "ElasticsearchConfigError",
        "GenerateError",
        "ManifestError",
        "MissingSystemPart",
        "StreamMissing",
        "ListError",
        "MappingError",
        "PiiError",
        "RuleError",
        "NoInput",
        "TemplatesMissing",
    }
)
"""Errors that a user mends by changing the command; by name, so that none is imported for it."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="adtally", message="%(prog)s %(version)s")
def cli() -> None:
    """Summaries and invalid-traffic flags per advertiser, from ad-tracking events.

    Start with logs that you have:

      adtally backfill --input logs/ --output out/

    or with made-up ones:

      adtally generate --events 100000 --seed 1 --output made-up/
    """


@cli.command(cls=PassThrough)
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
@elasticsearch_options
@click.option(
    "--elasticsearch-setup",
    is_flag=True,
    help="Install the index templates first, as 'adtally elasticsearch setup' does.",
)
@run_options
@config_option
@click.pass_context
def backfill(ctx: click.Context, /, **given: Any) -> None:
    """Read historical logs; write event log, summaries, flags and dead letters.

    Every option can also be set as ADTALLY_NAME in the environment, or in a --config file.
    """
    with _failures(given["debug"]):
        from adtally.pipelines import backfill as runs

        request = _request(ctx, given)
        if given["elasticsearch_setup"]:
            _install_templates(request)
        console = Console(stderr=True)
        outcome = runs.backfill(request, _watch(console, given))
        _show(outcome, console)
        _limit_dead_letters(outcome.report, given["max_dead_letter_ratio"])


@cli.command(cls=PassThrough)
@stream_options
@output_option
@tally_options
@elasticsearch_options
@click.option(
    "--elasticsearch-setup",
    is_flag=True,
    help="Install the index templates first, as 'adtally elasticsearch setup' does.",
)
@run_options
@config_option
@click.pass_context
def stream(ctx: click.Context, /, **given: Any) -> None:
    """Read a live stream; write what a backfill writes, minute by minute.

    DirectRunner means Prism here, which keeps no state: after a kill the stream is read again from
    before the oldest open window. FlinkRunner keeps its state in checkpoints, DataflowRunner in the
    cloud, where the job runs on by itself.
    """
    with _failures(given["debug"], "the next start reads what is missing"):
        from adtally.pipelines import stream as runs
        from adtally.pipelines.dataflow_cli import launch
        from adtally.pipelines.stream_cli import attend, request_of
        from adtally.runners.unbounded import RESTORE_SECONDS, SETTLE_SECONDS, settle

        ready(ctx)
        request = request_of(given, tuple(ctx.args), _elasticsearch(given))
        if given["elasticsearch_setup"]:
            _install_templates(request)
        console = Console(stderr=True)
        if given["stop_at"] is not None:
            outcome = runs.read_up_to_now(request, given["runner"], _watch(console, given))
            _show(outcome, console)
            _limit_dead_letters(outcome.report, given["max_dead_letter_ratio"])
            return
        if request.dataflow is not None:
            launch(request, request.dataflow, console)
            return
        job, result = runs.stream(request)
        console.print(f"output   {job.output}", soft_wrap=True)
        console.print(f"look     duckdb -init {job.output.rstrip('/')}/views.sql", soft_wrap=True)
        if given["detach"]:
            settle(result, RESTORE_SECONDS if given["flink_savepoint"] else SETTLE_SECONDS)
            return
        try:
            attend(result, given["quiet"])
        except KeyboardInterrupt:
            if given["runner"] == "FlinkRunner" and given["flink_environment"]:
                console.print("the job runs on; end it through Flink, with a savepoint")
                return
            result.cancel()
            console.print("ended; the next start reads again from before the oldest open window")


cli.add_command(athena)
cli.add_command(local)
cli.add_command(feed)
cli.add_command(profile)


@cli.command(cls=PassThrough)
@click.option(
    "--dead-letters",
    help="Folder of dead letters.  [default: OUTPUT/dead-letters]",
)
@output_option
@tally_options
@elasticsearch_options
@run_options
@config_option
@click.pass_context
def replay(ctx: click.Context, /, **given: Any) -> None:
    """Decode dead letters again, append them to the log, and re-tally the windows they touch.

    Use it after the mapping was corrected. Records keep their identity, so nothing counts twice.
    """
    with _failures(given["debug"]):
        from adtally.pipelines.replay import replay as run
        from adtally.pipelines.report import show

        request = _request(ctx, {**given, "inputs": (), "from_ms": None, "to_ms": None})
        console = Console(stderr=True)
        folder = given["dead_letters"] or request.output.rstrip("/") + "/dead-letters"
        done = run(request, folder, _watch(console, given))
        show(done.decoded, console)
        if done.correction is not None:
            _show(done.correction, console)
        _limit_dead_letters(done.decoded, given["max_dead_letter_ratio"])


@cli.command(context_settings=CONTEXT)
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
    with _failures(given["debug"]):
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


@cli.group(context_settings=CONTEXT)
def elasticsearch() -> None:
    """Prepare Elasticsearch."""


@elasticsearch.command(cls=PassThrough)
@elasticsearch_options
@click.option("--debug", is_flag=True)
@config_option
@click.pass_context
def setup(ctx: click.Context, /, **given: Any) -> None:
    """Install the index templates. Safe to repeat; existing indices are not changed."""
    with _failures(given["debug"]):
        from adtally.io import elasticsearch as sink

        ready(ctx)
        config = _elasticsearch(given)
        if config is None:
            raise click.UsageError("--elasticsearch URL is needed: where to install templates.")
        client = sink.connect(config)
        with contextlib.closing(client):
            for line in sink.install_templates(client, config):
                click.echo(line)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command ``adtally``."""
    cli.main(args=argv, prog_name="adtally")


@contextlib.contextmanager
def _failures(debug: bool, again: str = "the same command again completes it") -> Iterator[None]:
    """Errors as one clear line and an exit code; with ``--debug`` as they are.

    Args:
        debug: with tracebacks.
        again: what to say to one who interrupts it.
    """
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("adtally").setLevel(logging.INFO)
    if not debug:  # errors reach the user once, below
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, SystemExit):
        raise
    except KeyboardInterrupt:
        click.echo(f"adtally: interrupted; {again}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        # Beam adds the step to a message; the graph is our business, not the user's.
        message = str(error).split(" [while running")[0]
        if type(error).__name__ in USAGE_ERRORS:
            click.echo(f"adtally: {message}", err=True)
            sys.exit(2)
        click.echo(f"adtally: failed: {type(error).__name__}: {message}", err=True)
        click.echo("adtally: --debug shows where.", err=True)
        sys.exit(1)


def _request(ctx: click.Context, given: dict[str, Any]) -> Any:
    from adtally.pipelines.backfill import Request
    from adtally.pipelines.requests import settings_for
    from adtally.transforms.mapping import identity_mapping, load_mapping

    ready(ctx)
    return Request(
        inputs=given["inputs"],
        output=given["output"],
        settings=settings_for(given),
        mapping=load_mapping(given["mapping"]) if given["mapping"] else identity_mapping(),
        elasticsearch=_elasticsearch(given),
        from_ms=given["from_ms"],
        to_ms=given["to_ms"],
        block_bytes=given["block_size"] << 20,
        runner=given["runner"],
        beam_arguments=tuple(ctx.args),
    )


def _elasticsearch(given: dict[str, Any]) -> Any:
    if not given["elasticsearch"]:
        return None
    from adtally.pipelines.requests import elasticsearch_config

    return elasticsearch_config(given)


def _install_templates(request: Any) -> None:
    from adtally.io import elasticsearch as sink

    if request.elasticsearch is None:
        raise click.UsageError("--elasticsearch-setup needs --elasticsearch URL.")
    with contextlib.closing(sink.connect(request.elasticsearch)) as client:
        sink.install_templates(client, request.elasticsearch)


def _watch(console: Console, given: dict[str, Any]) -> Any:
    from adtally.pipelines.progress import Watch

    return Watch(console, quiet=given["quiet"])


def _show(outcome: Any, console: Console) -> None:
    from adtally.pipelines.report import show

    show(outcome.report, console)
    job = outcome.job
    for path in outcome.passed_over[:10]:
        console.print(f"passed over, no log by its name: {path}")
    if len(outcome.passed_over) > 10:
        console.print(f"and {len(outcome.passed_over) - 10} more")
    if outcome.removed_documents:
        console.print(f"removed {outcome.removed_documents:,} documents of earlier generations")
    console.print(f"output   {job.output}", soft_wrap=True)
    console.print(f"look     duckdb -init {job.output.rstrip('/')}/views.sql", soft_wrap=True)
    console.print(f"record   {outcome.record}", soft_wrap=True)


def _limit_dead_letters(report: Any, limit: float | None) -> None:
    if limit is not None and report.dead_letter_ratio > limit:
        click.echo(
            f"adtally: {report.dead_letter_ratio:.3%} of the records are dead letters, more than "
            f"--max-dead-letter-ratio {limit:.3%}. Everything was written; see dead-letters/.",
            err=True,
        )
        sys.exit(1)
