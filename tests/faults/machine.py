"""Disks and clocks of this machine, as small, slow and wrong as asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import libfaketime

from adtally.runners.local.flink_cluster import FlinkCluster, TaskManager, WorkerPool
from adtally.runners.local.service import MissingSystemPart

SMALL_MB = 600
SLOW_BYTES_A_SECOND = 100_000

FAKETIME = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
"""Debian's own 0.9.10 lets nobody sleep where the monotonic clock is left alone."""


def load() -> float:
    """Processes that run or wait, the average of a minute."""
    return round(os.getloadavg()[0], 1)


class SmallDisk:
    """A file system of some MB that can be filled to its last byte."""

    def __init__(self, place: Path) -> None:
        self._ballast = place / ".ballast"

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Full, also where a writer gives up and removes what it had: that is filled as well."""
        ended = threading.Event()

        def fill() -> None:
            with self._ballast.open("ab", buffering=0) as file:
                while not ended.is_set():
                    with contextlib.suppress(OSError):
                        file.write(b"x" * 65_536)
                        continue
                    with contextlib.suppress(OSError):
                        file.write(b"x" * 4_096)
                        continue
                    time.sleep(0.02)

        filling = threading.Thread(target=fill)
        filling.start()
        try:
            yield
        finally:
            ended.set()
            filling.join()
            self._ballast.unlink()


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int = SMALL_MB) -> Iterator[SmallDisk]:
    """A file system in memory, mounted at a place; needs root."""
    place.mkdir(parents=True, exist_ok=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place))
    try:
        yield SmallDisk(place)
    finally:
        _call("umount", "-l", str(place))


class SlowDisk:
    """A folder through bindfs, a file system in user space that writes no faster than it is told.

    Stopped, it does not answer at all: who writes there waits in the kernel, as with a server of
    files that hangs.
    """

    def __init__(self, real: Path, place: Path, bytes_a_second: int = SLOW_BYTES_A_SECOND) -> None:
        self._real, self._place, self._rate = real, place, bytes_a_second

    def __enter__(self) -> Self:
        if shutil.which("bindfs") is None:
            raise MissingSystemPart("a slow disk needs bindfs: apt-get install bindfs")
        for folder in (self._real, self._place):
            folder.mkdir(parents=True, exist_ok=True)
        command = ["bindfs", "-f", f"--write-rate={self._rate}", str(self._real), str(self._place)]
        self._process = subprocess.Popen(command, start_new_session=True)
        while not self._place.is_mount():
            time.sleep(0.1)
        return self

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_on()
        _call("umount", "-l", str(self._place))
        self._process.kill()
        self._process.wait()


class Clock:
    """A wall clock that jumps, by libfaketime; the monotonic clock goes on as it does everywhere.

    Args:
        file: says how far the clock is off; read again every second.
    """

    def __init__(self, file: Path) -> None:
        if not FAKETIME.exists():
            raise MissingSystemPart(
                "clocks that jump need libfaketime: apt-get install libfaketime"
            )
        self._file = file
        self._ahead = 0
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """From now on the clock is this much further ahead; less than 0 is back."""
        self._ahead += seconds
        whole = self._file.with_suffix(".tmp")
        whole.write_text(f"{self._ahead:+d}s\n")
        whole.replace(self._file)

    def environment(self) -> dict[str, str]:
        """Variables of a process that has this clock."""
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else waits of the JVM that name no clock end at once, and it spins.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


def give_clock(cluster: FlinkCluster, clock: Clock, whole_machine: bool) -> None:
    """Have the workers of a cluster, or the TaskManager as well, live by a clock."""

    class Pool(WorkerPool):
        def environment(self) -> dict[str, str]:
            return {**super().environment(), **clock.environment()}

    class Manager(TaskManager):
        def environment(self) -> dict[str, str]:
            return {**super().environment(), **clock.environment()}

    cluster.pool = Pool(cluster.data / "workers")
    if whole_machine:
        cluster.task_managers = [Manager(cluster.manager, cluster.data / "task-0")]


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingSystemPart(f"{' '.join(command)}: {done.stderr.strip()}")
