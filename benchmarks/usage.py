"""Processor time and memory of processes and all that they start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

SAMPLE_SECONDS = 0.05


class Usage:
    """Watches trees of processes while it is entered.

    Processes are asked until they end, not waited for: Spark's JVM is nobody's child by then.

    Attributes:
        peak_mb: the most resident memory of all of them together.
        largest_mb: the most of a single one.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._ticks: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_mb = 0.0
        self.largest_mb = 0.0

    @property
    def cpu(self) -> float:
        """Seconds of processor time since it was entered."""
        return (sum(self._ticks.values()) - self._before) / os.sysconf("SC_CLK_TCK")

    @property
    def busiest(self) -> float:
        """Seconds of processor time of the process that used most, since it began."""
        return max(self._ticks.values(), default=0) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        self._sample()
        self._before = sum(self._ticks.values())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        pages = most = 0
        for pid in self._pids:
            for one in tree(pid):
                try:
                    own = int(Path(f"/proc/{one}/statm").read_text().split()[1])
                    pages, most = pages + own, max(most, own)
                    words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
                    self._ticks[one] = int(words[11]) + int(words[12])
                except (OSError, IndexError):  # it ended in between
                    continue
        page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
        self.peak_mb = max(self.peak_mb, pages * page_mb)
        self.largest_mb = max(self.largest_mb, most * page_mb)


def backfill(folder: Path, *arguments: str) -> tuple[float, Usage]:
    """Run ``adtally backfill``, see :func:`adtally`."""
    return adtally(folder, "backfill", "--quiet", *arguments)


def adtally(folder: Path, *arguments: str) -> tuple[float, Usage]:
    """Run a command of adtally; seconds of wall time, and what it used.

    Args:
        folder: gets what it says, as ``said``.
        arguments: the command and its options.

    Raises:
        SystemExit: it fails; with what it said.
    """
    command = [sys.executable, "-m", "adtally.pipelines", *arguments]
    with (folder / "said").open("w") as said:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        with Usage(process.pid) as used:
            code = process.wait()
        seconds = time.monotonic() - began
    if code:
        raise SystemExit((folder / "said").read_text())
    return seconds, used


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it ended in between
            continue
    return found
