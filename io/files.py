"""Files that appear whole or not at all, through Beam's filesystems."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO, Final

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from adtally.io import s3

_IN_MEMORY_BYTES: Final = 8 << 20
"""Objects larger than this wait on disk."""

LEFTOVER_SECONDS: Final = 3_600.0
"""A temporary file that nobody wrote to for this long has no writer any more."""


def join(base: str, *parts: str) -> str:
    """Join with forward slashes, local paths and URIs alike."""
    return posixpath.join(base, *parts)


class AtomicFile:
    """A file that has its name once :meth:`commit` gives it that.

    Until then it has a temporary one that ends in ``.tmp``, so no reader's pattern sees it. An
    object of S3 waits on this machine and is uploaded whole: there is no renaming, an upload that
    fails leaves nothing, and Beam's own writer would complete one whose writer died. Committing
    over an existing file replaces it: names come from the identity of the inputs, so a retry or a
    second run replaces a file with the same content.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._temporary = ""
        if FileSystems.get_scheme(path) == s3.SCHEME:
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
            if self._temporary:
                self.file.close()
                FileSystems.rename([self._temporary], [self.path])
            else:
                s3.upload(self.file, self.path)
                self.file.close()
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
        yield target.file
    except BaseException:
        target.abort()
        raise
    target.commit()


def make_folder(folder: str) -> None:
    """Create a folder, its parents too; one that exists is fine, also when made just now."""
    if not folder or FileSystems.exists(folder):
        return
    try:
        FileSystems.mkdirs(folder)
    except (BeamIOError, OSError):
        if not FileSystems.exists(folder):
            raise


def list_paths(pattern: str) -> list[str]:
    """Addresses of the files that match a pattern, sorted; none is fine."""
    return sorted(item.path for item in FileSystems.match([pattern])[0].metadata_list)


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
    if FileSystems.get_scheme(path) == s3.SCHEME:
        return s3.open_object(path)
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def delete(paths: list[str]) -> None:
    """Remove files."""
    if paths:
        FileSystems.delete(paths)


def remove_leftovers(folder: str, older_than_seconds: float = LEFTOVER_SECONDS) -> int:
    """Remove temporary files that a killed run left below ``folder``; returns how many.

    Younger ones may be another run's, such as a live stream's, that is writing just now.
    """
    (found,) = FileSystems.match([join(folder, "**")])
    before = time.time() - older_than_seconds
    leftovers = [
        entry.path
        for entry in found.metadata_list
        if _is_leftover(entry.path) and entry.last_updated_in_seconds < before
    ]
    delete(leftovers)
    return len(leftovers)


def _is_leftover(path: str) -> bool:
    name = posixpath.basename(path)
    return name.startswith(".") and name.endswith(".tmp")
