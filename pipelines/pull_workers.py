"""Jobs for databases: many at a time, and one that hangs takes nobody's place."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

SLOW_SECONDS: Final = 2.0
"""A job that takes longer is waited for no more, and another may begin beside it."""

MOST_THREADS: Final = 512
"""With more jobs than this hanging at the same time, others wait."""

T = TypeVar("T")


@dataclass(eq=False)
class _Job:
    run: Callable[[], None]
    server: str
    started: float = 0.0
    slow: bool = False


@dataclass
class _Lane:
    """Jobs for one server."""

    waiting: collections.deque[_Job] = field(default_factory=collections.deque)
    active: int = 0


class Workers:
    """Runs jobs in threads that do not keep the process alive. Jobs raise nothing.

    Args:
        width: jobs at a time for one server; those of other servers do not count.
        slow_seconds: see :data:`SLOW_SECONDS`.
    """

    def __init__(self, width: int, slow_seconds: float = SLOW_SECONDS) -> None:
        self._width = width
        self._slow_seconds = slow_seconds
        self._lanes: dict[str, _Lane] = {}
        self._running: set[_Job] = set()
        self._changed = threading.Condition()

    def submit(self, server: str, run: Callable[[], None]) -> None:
        """Have a job run, after those submitted before for the same server."""
        with self._changed:
            self._lanes.setdefault(server, _Lane()).waiting.append(_Job(run, server))
            self._start(server)

    def settle(self) -> None:
        """Wait until no job waits and all that run are slow."""
        with self._changed:
            while self._look() or any(not job.slow for job in self._running):
                self._changed.wait(self._slow_seconds / 4)

    def finish(self, seconds: float) -> bool:
        """Wait until all jobs have ended, for so long; whether they have."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._look() or self._running:
                if time.monotonic() > end:
                    return False
                self._changed.wait(self._slow_seconds / 4)
        return True

    def _look(self) -> bool:
        """Let others begin beside jobs that are slow; whether any waits."""
        now = time.monotonic()
        for job in self._running:
            if not job.slow and now - job.started > self._slow_seconds:
                job.slow = True
                self._lanes[job.server].active -= 1
        for server in self._lanes:
            self._start(server)
        return any(lane.waiting for lane in self._lanes.values())

    def _start(self, server: str) -> None:
        lane = self._lanes[server]
        while lane.waiting and lane.active < self._width and len(self._running) < MOST_THREADS:
            job = lane.waiting.popleft()
            job.started = time.monotonic()
            lane.active += 1
            self._running.add(job)
            threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: _Job | None) -> None:
        while job is not None:
            job.run()
            job = self._next(job)

    def _next(self, done: _Job) -> _Job | None:
        """Book a job's end; gives the next for the same thread."""
        with self._changed:
            self._running.discard(done)
            lane = self._lanes[done.server]
            if not done.slow:
                lane.active -= 1
            self._changed.notify_all()
            if not lane.waiting or lane.active >= self._width:
                return None
            job = lane.waiting.popleft()
            job.started = time.monotonic()
            lane.active += 1
            self._running.add(job)
            return job


def ahead(pages: Iterator[T]) -> Iterator[T]:
    """The same pages, each asked for while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = thread.submit(next, pages, None)
            yield page
