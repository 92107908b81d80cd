"""Prism, Beam's portable local runner: streaming on one machine.

``DirectRunner`` in a stream means Prism. Beam's own DirectRunner is a switch that takes Prism for
some pipelines and others for the rest, and of those none fires a window while a stream runs.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Final

import apache_beam as beam

from adtally.runners.local.go_program import go_install
from adtally.runners.local.service import MissingSystemPart, cache_folder

NAME: Final = "PrismRunner"
PRISM_ENV: Final = "ADTALLY_PRISM"
_MODULE: Final = "github.com/apache/beam/sdks/v2/go/cmd/prism"
_LOG = logging.getLogger(__name__)


def find_prism(given: str | None = None) -> str:
    """The Prism binary: the one given, ``ADTALLY_PRISM``, on the PATH, in the cache, or built.

    Building needs Go and takes some two minutes, once. Without Go the answer is empty, and Beam
    downloads the binary of its own version.

    Raises:
        MissingSystemPart: what was given is not there.
    """
    named = given or os.environ.get(PRISM_ENV)
    if named:
        if not Path(named).is_file():
            raise MissingSystemPart(
                f"there is no Prism at {named}, so no stream can run here; correct --prism or "
                f"{PRISM_ENV}, or leave it out to have it found."
            )
        return named
    found = shutil.which("prism")
    if found:
        return found
    cached = cache_folder() / f"prism-{beam.__version__}"
    if cached.is_file():
        return str(cached)
    if shutil.which("go"):
        return str(_built(cached))
    _LOG.info("no Prism on this machine and no Go to build it with; Beam downloads it")
    return ""


def prism_arguments(given: str | None = None) -> list[str]:
    """Beam options for Prism; workers run inside of this process."""
    location = find_prism(given)
    return [
        f"--runner={NAME}",
        "--environment_type=LOOPBACK",
        *([f"--prism_location={location}"] if location else []),
    ]


def _built(target: Path) -> Path:
    _LOG.info("building Prism %s with Go, once; this takes some two minutes", beam.__version__)
    if said := go_install(_MODULE, beam.__version__, target):
        raise MissingSystemPart(
            f"Prism {beam.__version__} could not be built, so no stream can run here:\n"
            f"{said}\nGive a binary with --prism."
        )
    return target
