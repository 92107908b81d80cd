"""Programs that are built with Go, once."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SAID_CHARACTERS: Final = 2_000


def go_install(package: str, version: str, target: Path) -> str:
    """Have Go build a program; another process may do the same at the same time.

    Args:
        package: its import path, which ends in the program's name.
        version: without the ``v``.
        target: what the program becomes, whole or not at all.

    Returns:
        The end of what Go said where it failed; empty where it is built.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    name = package.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        done = subprocess.run(
            ["go", "install", f"{package}@v{version}"],
            env={**os.environ, "GOBIN": scratch},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return done.stderr[-SAID_CHARACTERS:] or f"Go ended with {done.returncode}"
        Path(scratch, name).rename(target)
    return ""
