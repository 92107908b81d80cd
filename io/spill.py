"""Spilling: slices of a local run wait on disk for their group, not in memory.

The DirectRunner keeps everything that it shuffles in memory, three times over while it groups.
On one machine a slice can wait in a file instead, and its address crosses the shuffle: memory
then hardly grows with the input. Runners with a shuffle of their own get the slices themselves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

_INLINE: Final = b"\0"
_STORED: Final = b"\1"


class Spill:
    """Puts bytes aside and gives them back, in this process or another on this machine.

    With an empty folder, bytes travel as they are. The folder belongs to one run, and goes with it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def put(self, data: bytes) -> bytes:
        """Bytes to pass on instead of ``data``: its address, or ``data`` itself."""
        if not self._folder:
            return _INLINE + data
        if self._file is None:
            path = Path(self._folder, f"{os.getpid()}-{id(self):x}.spill")
            self._file = path.open("ab")
        at = self._file.tell()
        self._file.write(data)
        return _STORED + f"{at}:{len(data)}:{self._file.name}".encode()

    def flush(self) -> None:
        """Make everything put so far readable by others; call it before a bundle ends."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """End writing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def take(passed: bytes) -> bytes:
    """The bytes behind what :meth:`Spill.put` gave.

    Raises:
        OSError: the run's folder is gone, or the disk failed.
    """
    if passed[:1] == _INLINE:
        return passed[1:]
    start, length, path = passed[1:].decode().split(":", 2)
    with Path(path).open("rb") as file:
        file.seek(int(start))
        data = file.read(int(length))
    if len(data) != int(length):
        raise OSError(
            f"{path} holds {len(data)} of {length} bytes at {start}: the disk is full or the run's "
            f"folder was changed; events would be lost. Free space and run again."
        )
    return data
