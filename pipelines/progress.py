"""Progress of a run: a display on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adtally.io.progress import read_progress

REFRESH_SECONDS = 0.5
LOG_SECONDS = 10.0
"""Between log lines without a terminal: a run of an hour leaves 360 lines."""

_LOG = logging.getLogger("adtally")


@dataclass
class Watch:
    """Shows how far a run is. ``quiet`` shows nothing."""

    console: Console
    quiet: bool = False

    @contextlib.contextmanager
    def watching(self, folder: str, files: int, stored_bytes: int) -> Iterator[None]:
        """Watch the progress that workers leave in ``folder`` while the block runs."""
        stop = threading.Event()
        target = self._display if self.console.is_terminal else self._log
        thread = threading.Thread(
            target=target, args=(stop, folder, files, stored_bytes), name="adtally-progress"
        )
        try:
            if not self.quiet:
                thread.start()  # in here: Ctrl-C may come while it starts
            yield
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()

    def _display(self, stop: threading.Event, folder: str, files: int, size: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("reading", total=size, counts="")
            started = time.monotonic()
            while True:
                done = stop.wait(REFRESH_SECONDS)
                bar.update(task, **self._state(folder, files, size, time.monotonic() - started))
                if done:
                    return

    def _state(self, folder: str, files: int, size: int, seconds: float) -> dict[str, Any]:
        now = read_progress(folder)
        rate = now.events / max(seconds, 1e-9)
        counts = (
            f"{now.files:,}/{files:,} files  {now.events:,} events ({rate:,.0f}/s)  "
            f"{now.dead_letters:,} dead letters"
        )
        what = "tallying" if now.stored_bytes >= size else "reading"
        return {"completed": now.stored_bytes, "counts": counts, "description": what}

    def _log(self, stop: threading.Event, folder: str, files: int, size: int) -> None:
        started = time.monotonic()
        while not stop.wait(LOG_SECONDS):
            state = self._state(folder, files, size, time.monotonic() - started)
            share = state["completed"] / max(1, size)
            _LOG.info("%s %.0f%%: %s", state["description"], share * 100, state["counts"])
