"""Progress of a run on this machine: each worker process keeps its totals in a small file."""

from __future__ import annotations

import os
import uuid
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass
class Progress:
    """What has been done so far."""

    files: int = 0
    stored_bytes: int = 0
    records: int = 0
    events: int = 0
    dead_letters: int = 0


class ProgressWriter:
    """Adds up the work of one process. With an empty folder it does nothing."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder, f"{os.getpid()}-{uuid.uuid4().hex}.progress") if folder else None
        self._total = Progress()

    def add(self, done: Progress) -> None:
        """Add to the totals of this process; atomic for a reader, and no lock."""
        if self._path is None:
            return
        self._total = Progress(
            *(a + b for a, b in zip(astuple(self._total), astuple(done), strict=True))
        )
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(" ".join(map(str, astuple(self._total))), encoding="ascii")
        temporary.replace(self._path)


def read_progress(folder: str) -> Progress:
    """The sum over all processes."""
    sums = [0] * len(astuple(Progress()))
    for path in Path(folder).glob("*.progress"):
        for index, value in enumerate(path.read_text(encoding="ascii").split()):
            sums[index] += int(value)
    return Progress(*sums)
