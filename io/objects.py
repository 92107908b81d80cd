"""What the object stores have in common: entries, addresses, and the options that reach them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions


class Entry(NamedTuple):
    """A file or an object: its address, its size in bytes, and when it was written (epoch)."""

    path: str
    size: int
    updated: float


class Store(Protocol):
    """An object store. Addresses are ``SCHEME://BUCKET/KEY``; what fails is an OSError.

    Objects appear whole or not at all under their names, and replace what was there.
    """

    def open_object(self, path: str) -> BinaryIO:
        """Open an object for reading."""

    def upload(self, file: BinaryIO, path: str) -> None:
        """Write an object from a file, from its beginning; it appears when all of it is there."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Objects whose addresses begin so, in the order of the store."""

    def find(self, path: str) -> Entry | None:
        """The object of this very address, or None."""

    def copy(self, source: str, target: str) -> None:
        """Write an object as another one has it, within the store."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is fine."""


def split(path: str) -> tuple[str, str]:
    """Bucket and key of ``SCHEME://BUCKET/KEY``."""
    bucket, _, key = path.partition("://")[2].partition("/")
    return bucket, key


def storage_options() -> PipelineOptions:
    """Beam's options as its filesystems have them, on workers too."""
    return FileSystems._pipeline_options or PipelineOptions([])


def given_settings(*views: Any, prefix: str = "") -> str:
    """Options that were given, of some classes of options, as a text that can be a key."""
    found: dict[str, Any] = {}
    for view in views:
        found |= storage_options().view_as(view).get_all_options(drop_default=True)
    wanted = {name: found[name] for name in sorted(found) if name.startswith(prefix)}
    return json.dumps(wanted, default=str)
