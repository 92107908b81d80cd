"""What a command says and returns when it fails: the same for all of them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import click

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
        "SecurityMissing",
        "TemplatesMissing",
        "TooManyTenants",
        "TooYoung",
    }
)
"""Errors that a user mends by changing the command; by name, so that none is imported for it."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@contextlib.contextmanager
def failures(debug: bool, again: str = "the same command again completes it") -> Iterator[None]:
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
