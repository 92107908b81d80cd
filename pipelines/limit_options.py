"""Limits of the input on the command line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import click

from adtally.io.limits import LimitError, Limits
from adtally.pipelines.options import options

limit_options = options(
    click.option(
        "--max-record-bytes",
        type=click.IntRange(min=64),
        help="Of a line or message; longer ones are dead letters.  [default: 1 MiB]",
    ),
    click.option(
        "--max-id-bytes",
        type=click.IntRange(min=32),
        help="Of each identifier, address and country.  [default: 256]",
    ),
    click.option(
        "--max-text-bytes",
        type=click.IntRange(min=32),
        help="Of user agents and URLs.  [default: 32 KiB]",
    ),
    click.option(
        "--id-controls",
        is_flag=True,
        default=None,
        help="Let identifiers have control characters, and U+FFFD for what was lost.",
    ),
    click.option(
        "--max-depth",
        type=click.IntRange(1, 100),
        help="Levels of nested JSON.  [default: 100]",
    ),
    click.option(
        "--max-fields",
        type=click.IntRange(min=64),
        help="Of a record, at its top level.  [default: 1000]",
    ),
    click.option(
        "--max-expansion",
        type=click.IntRange(min=1),
        help="Bytes that a compressed file gives per stored byte, once it gave 64 MiB.  "
        "[default: 500]",
    ),
    click.option(
        "--max-file-bytes",
        type=click.IntRange(min=1),
        help="That a compressed file gives.  [default: 256 GiB]",
    ),
    click.option(
        "--max-dead-letters-per-mib",
        type=click.IntRange(min=1),
        help="Of what is read; records beyond share one, which counts them.  [default: 32768]",
    ),
)
"""What input may be at most; docs/limits.md."""

_OPTIONS: Final = {
    field.name: "id_controls" if field.name == "id_controls" else f"max_{field.name}"
    for field in fields(Limits)
} | {"ratio": "max_expansion", "letters_per_mib": "max_dead_letters_per_mib"}


def limits_of(given: dict[str, Any]) -> Limits:
    """Limits as given; a run does not take over those of the runs before.

    Raises:
        ConfigError: one cannot be used.
    """
    from adtally.pipelines.job import ConfigError

    set_ = {name: given.get(option) for name, option in _OPTIONS.items()}
    try:
        return Limits(**{name: value for name, value in set_.items() if value is not None})
    except LimitError as error:
        raise ConfigError(str(error)) from error
