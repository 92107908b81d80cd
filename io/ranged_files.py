"""Objects of a store for DuckDB: read by ranges, through adtally's own clients, and counted.

DuckDB's own reader of object stores is an extension that it downloads when it is first used. This
one needs no network but the store's, has the settings that everything else has, and cannot write.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Iterable
from typing import Any, Final

import fsspec

from adtally.io import gcs, s3
from adtally.io.objects import Entry, Store

STORES: Final[dict[str, Store]] = {s3.SCHEME: s3, gcs.SCHEME: gcs}


class RangedFiles(fsspec.AbstractFileSystem):
    """The given objects and no others, for reading alone.

    What the listing told of an object, its size and time, is not asked again.

    Args:
        entries: the objects.

    Attributes:
        requests: ranges that were read.
        bytes_read: in them.
        opened: addresses of objects that were read from.
    """

    protocol = tuple(STORES)
    cachable = False
    root_marker = ""

    def __init__(self, entries: Iterable[Entry]) -> None:
        super().__init__()
        self._entries = {entry.path: entry for entry in entries}
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_read = 0
        self.opened: set[str] = set()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    def unstrip_protocol(self, name: str) -> str:
        return name

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        entry = self._entry(path)
        return {"name": path, "size": entry.size, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return path in self._entries

    def glob(self, path: str, **_: Any) -> Any:
        return [path] if path in self._entries else []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        found = self.glob(path)
        return [self.info(one) for one in found] if detail else found

    def modified(self, path: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._entry(path).updated, datetime.UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open an object for reading.

        Raises:
            OSError: it is not one of those given, or is to be written.
        """
        if mode not in ("rb", "r"):
            raise OSError(f"{path} can only be read")
        return _RangedFile(self, self._entry(path))

    def read_range(self, entry: Entry, start: int, length: int) -> bytes:
        """Bytes of an object, counted."""
        store = STORES[entry.path.partition("://")[0]]
        data = store.read_range(entry.path, start, length)
        if len(data) != length:
            raise OSError(
                f"{entry.path} gave {len(data)} bytes of {length} at {start}; it was replaced "
                f"while it was read. Ask again."
            )
        with self._lock:
            self.requests += 1
            self.bytes_read += len(data)
            self.opened.add(entry.path)
        return data

    def _entry(self, path: str) -> Entry:
        try:
            return self._entries[path]
        except KeyError:
            raise FileNotFoundError(f"{path} is no file of this output") from None


class _RangedFile:
    """An object as a file; every read is a request, as DuckDB asks for whole columns at once."""

    def __init__(self, files: RangedFiles, entry: Entry) -> None:
        self._files = files
        self._entry = entry
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._entry.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._entry.size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        data = self._files.read_range(self._entry, self._at, length)
        self._at += length
        return data

    def close(self) -> None:
        """Nothing is open."""
