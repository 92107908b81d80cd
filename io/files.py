"""Files that appear whole or not at all, through Beam's filesystems."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO, Final

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems

from adtally.io import gcs, s3
from adtally.io.objects import Entry, Store

_STORES: Final[dict[str | None, Store]] = {s3.SCHEME: s3, gcs.SCHEME: gcs}
"""Those that we reach ourselves; Beam's filesystems reach the rest, and the disk."""

_IN_MEMORY_BYTES: Final = 8 << 20
"""Objects larger than this wait on disk."""

_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing that do not say where it was, and should: a disk has to be found and freed."""

LEFTOVER_SECONDS: Final = 3_600.0
"""A temporary file that nobody wrote to for this long has no writer any more."""


def join(base: str, *parts: str) -> str:
    """Join with forward slashes, local paths and URIs alike."""
    return posixpath.join(base, *parts)


class AtomicFile:
    """A file that has its name once :meth:`commit` gives it that.

    Until then it has a temporary one that ends in ``.tmp``, so no reader's pattern sees it. An
    object of S3 or GCS waits on this machine and is uploaded whole: there is no renaming, an upload
    that fails leaves nothing, and Beam's own writers would complete one whose writer died.
    Committing over an existing file replaces it: names come from the identity of the inputs, so a
    retry or a second run replaces a file with the same content.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._temporary = ""
        self._store = _store(path)
        if self._store:
            self.file: BinaryIO = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
            return
        folder, name = posixpath.split(path)
        make_folder(folder)
        self._temporary = join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        self.file = FileSystems.create(
            self._temporary, compression_type=CompressionTypes.UNCOMPRESSED
        )

    def commit(self) -> None:
        """Give the file its name; when that fails, nothing is left of it."""
        try:
            if self._store:
                self._store.upload(self.file, self.path)
                self.file.close()
            else:
                self.file.close()
                FileSystems.rename([self._temporary], [self.path])
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Close the file and remove it. Quiet: what made it necessary is what has to be told."""
        with contextlib.suppress(OSError):
            self.file.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                FileSystems.delete([self._temporary])


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Write a file that appears under its name when the block ends without an error."""
    target = AtomicFile(path)
    try:
        try:
            yield target.file
        except BaseException:
            target.abort()
            raise
        target.commit()
    except OSError as error:
        if error.errno in _OF_THE_DISK and error.filename is None:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def make_folder(folder: str) -> None:
    """Create a folder, its parents too; one that exists is fine, also when made just now."""
    if not folder or _store(folder) or FileSystems.exists(folder):
        return
    try:
        FileSystems.mkdirs(folder)
    except (BeamIOError, OSError):
        if not FileSystems.exists(folder):
            raise


def find(pattern: str) -> list[Entry]:
    """The files that match a pattern, each once; none is fine.

    ``*`` and ``?`` stand for signs other than a slash, ``**`` for any, ``[...]`` for one of some.
    Of an object store only what is before the first of them narrows what has to be listed.
    """
    store = _store(pattern)
    if store is None:
        found = FileSystems.match([pattern])[0].metadata_list
        return [Entry(one.path, one.size_in_bytes, one.last_updated_in_seconds) for one in found]
    prefix = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    if prefix == pattern:
        entry = store.find(pattern)
        return [entry] if entry else []
    matches = re.compile(FileSystem.translate_pattern(pattern)).match
    return [entry for entry in store.entries(prefix) if matches(entry.path)]


def list_paths(pattern: str) -> list[str]:
    """Addresses of the files that match a pattern, sorted; none is fine."""
    return sorted(entry.path for entry in find(pattern))


def exists(path: str) -> bool:
    """Whether there is a file of this address."""
    store = _store(path)
    return store.find(path) is not None if store else bool(FileSystems.exists(path))


def read_bytes(path: str) -> bytes:
    """The whole content of a file, not decompressed.

    Raises:
        OSError: it cannot be read.
    """
    with _google_errors(path), open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def _google_errors(path: str) -> Iterator[None]:
    """Errors of Google's client, which Beam hands on as they are, as those of other files."""
    if FileSystems.get_scheme(path) != "gs":
        yield
        return
    from google.api_core.exceptions import GoogleAPICallError

    try:
        yield
    except GoogleAPICallError as error:
        raise OSError(error.code, f"{type(error).__name__} of Cloud Storage", path) from error


def open_file(path: str) -> BinaryIO:
    """Open a file for reading, not decompressed."""
    store = _store(path)
    if store:
        return store.open_object(path)
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def move(source: str, target: str) -> None:
    """Give a file another name; in an object store that is a copy, and then a removal."""
    store = _store(target)
    if store is None or store is not _store(source):
        make_folder(posixpath.dirname(target))
        FileSystems.rename([source], [target])
        return
    store.copy(source, target)
    store.delete([source])


def delete(paths: list[str]) -> None:
    """Remove files of one place."""
    store = _store(paths[0]) if paths else None
    if store:
        store.delete(paths)
    elif paths:
        FileSystems.delete(paths)


def leftovers(folder: str, older_than_seconds: float = LEFTOVER_SECONDS) -> list[str]:
    """Temporary files that a killed run left below ``folder``.

    Younger ones may be another run's, such as a live stream's, that is writing just now.
    """
    before = time.time() - older_than_seconds
    return [
        entry.path
        for entry in find(join(folder, "**"))
        if _is_leftover(entry.path) and entry.updated < before
    ]


def remove_leftovers(folder: str, older_than_seconds: float = LEFTOVER_SECONDS) -> int:
    """Remove :func:`leftovers`; returns how many they were."""
    found = leftovers(folder, older_than_seconds)
    delete(found)
    return len(found)


def _store(path: str) -> Store | None:
    return _STORES.get(FileSystems.get_scheme(path))


def _is_leftover(path: str) -> bool:
    name = posixpath.basename(path)
    return name.startswith(".") and name.endswith(".tmp")
