"""``adtally stream`` as a Flex Template: what its launcher says, in our words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

from adtally.pipelines.cli import cli
from adtally.pipelines.dataflow_cli import OURS
from adtally.pipelines.stream_cli import stream
from adtally.runners.dataflow import NAME

SPLIT: Final = "source"
"""A template's parameter has one value, so several sources are given with commas."""

_SAID: Final = frozenset({"runner", "streaming", "enable_streaming_engine"})


def arguments(given: Sequence[str]) -> list[str]:
    """Of ``adtally stream``, from those of the launcher: ``--name=value``, names with ``_``.

    What neither has is handed on to Beam. A parameter that is left empty is not given.
    """
    return ["stream", "--runner", NAME, *(one for text in given for one in _translated(text))]


def _translated(text: str) -> Iterator[str]:
    name, equals, value = text.removeprefix("--").partition("=")
    option = _option(OURS.get(name, name.replace("_", "-")))
    if name in _SAID or (equals and not value):
        return
    if option is None or not text.startswith("--"):
        yield text
    elif option.is_flag:
        if value.lower() in ("", "true"):
            yield option.opts[0]
    else:
        for one in _values(name, value):
            yield from (option.opts[0], one)


def _option(name: str) -> click.Option | None:
    found = [one for one in stream.params if f"--{name}" in one.opts]
    return found[0] if found and isinstance(found[0], click.Option) else None


def _values(name: str, value: str) -> list[str]:
    if name == SPLIT:
        return [one.strip() for one in value.split(",")]
    if value.startswith("{"):  # labels, renamed steps
        return [f"{key}={text}" for key, text in json.loads(value).items()]
    return [value]


def main() -> None:
    """Entry point of the template."""
    cli.main(args=arguments(sys.argv[1:]), prog_name="adtally")
