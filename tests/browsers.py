"""A real browser for tests: Chromium, as the system has it."""

from __future__ import annotations

import shutil
from typing import Final

from adtally.runners.local.service import MissingSystemPart

ARGUMENTS: Final = ("--no-sandbox", "--disable-dev-shm-usage")
"""For root, and for machines with little shared memory."""


def chromium_path() -> str:
    """The program.

    Raises:
        MissingSystemPart: there is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise MissingSystemPart(
        "Tests of the dashboard look at it in Chromium, which is not installed. On Debian: "
        "apt-get install chromium"
    )
