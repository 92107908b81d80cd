"""What a command says and returns when it fails: the same for all of them."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import click

from adtally.io.shown import Formatter, shown

USAGE_ERRORS = frozenset(
    {
        "AlertSinkError",
        "ConfigError",
        "DatabaseConfigError",
        "DataflowError",
        "ElasticsearchConfigError",
        "GenerateError",
        "LimitError",
        "ManifestError",
        "MissingSystemPart",
        "StreamMissing",
        "ListError",
        "MappingError",
        "NotAdLogs",
        "PiiError",
        "QueryError",
        "ReportError",
        "RuleError",
        "NoInput",
        "SecurityMissing",
        "TemplatesMissing",
        "TooManyTenants",
        "TooYoung",
    }
)
"""Errors that a user mends by changing the command; by name, so that none is imported for it."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NO_SPACE = ("[Errno 28]", "[Errno 122]")
"""A disk or a quota is full, whoever found out: Beam tells errors of workers as texts."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it; 143 after SIGTERM."""

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
        format=LOG_FORMAT,
    )
    for handler in logging.getLogger().handlers:
        if type(handler.formatter) is logging.Formatter:  # of basicConfig
            handler.setFormatter(Formatter(LOG_FORMAT))
    logging.getLogger("adtally").setLevel(logging.INFO)
    if not debug:  # errors reach the user once, below
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    terminated = False

    def terminate(number: int, frame: Any) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, SystemExit):
        raise
    except KeyboardInterrupt:
        how = "ended by SIGTERM" if terminated else "interrupted"
        click.echo(f"adtally: {how}; {again}", err=True)
        sys.exit(128 + signal.SIGTERM if terminated else INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        # Beam adds the step to a message; the graph is our business, not the user's.
        message = shown(str(error).split(" [while running")[0])
        if type(error).__name__ in USAGE_ERRORS:
            click.echo(f"adtally: {message}", err=True)
            sys.exit(2)
        click.echo(f"adtally: failed: {type(error).__name__}: {message}", err=True)
        if any(number in message for number in NO_SPACE):
            click.echo(
                f"adtally: the disk of --output or of the scratch folder ({tempfile.gettempdir()}, "
                f"set by TMPDIR) is full; nothing half-written is visible. Free some; {again}.",
                err=True,
            )
        click.echo("adtally: --debug shows where.", err=True)
        sys.exit(1)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
