"""What the object stores have in common: entries, addresses, and options that reach the workers."""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, S3Options

_S3_ENCRYPTION: Final = ("AES256", "aws:kms", "aws:kms:dsse")
_SECRETS: Final = frozenset({"s3_access_key_id", "s3_secret_access_key", "s3_session_token"})
_GCS_KEY: Final = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


class EncryptionError(ValueError):
    """Options for encryption that cannot be meant; the message says what to write instead."""


class EncryptionOptions(PipelineOptions):
    """How objects are encrypted where they lie, as options of Beam's, so that workers have them."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument(
            "--s3_server_side_encryption",
            help="Encryption of objects on S3: AES256, aws:kms or aws:kms:dsse; else the bucket's.",
        )
        parser.add_argument(
            "--s3_kms_key_id",
            help="Key of aws:kms: an id, an alias or an ARN; else the account's key for S3.",
        )
        parser.add_argument(
            "--gcs_kms_key",
            help="Key of objects on GCS: projects/P/locations/L/keyRings/R/cryptoKeys/K; else the "
            "bucket's.",
        )


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

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes of an object; fewer where it ends before."""

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


class Storing(beam.DoFn):
    """A DoFn that reaches files from any worker: it carries Beam's options for storage with it.

    A worker pool starts its workers without options (Beam 2.77): the endpoint, and what objects
    are to be encrypted with, would be missing there without a word. Credentials are not carried;
    workers have their own.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_storage": carried_options()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = dict(state)
        use_carried(given.pop("_storage"))
        self.__dict__.update(given)


def carried_options() -> dict[str, Any]:
    """Beam's options for storage that were given, without secrets."""
    views = (S3Options, EncryptionOptions, GoogleCloudOptions)
    found = {name: value for view in views for name, value in _given(view).items()}
    return {name: value for name, value in found.items() if name not in _SECRETS}


def use_carried(options: dict[str, Any]) -> None:
    """Let filesystems know options, where Beam has not told them itself."""
    if isinstance(FileSystems._pipeline_options, _Carried | None):
        FileSystems.set_options(_Carried([], **options))


class _Carried(PipelineOptions):
    """Options that came with the graph."""


def split(path: str) -> tuple[str, str]:
    """Bucket and key of ``SCHEME://BUCKET/KEY``."""
    bucket, _, key = path.partition("://")[2].partition("/")
    return bucket, key


def storage_options() -> PipelineOptions:
    """Beam's options as its filesystems have them, on workers too."""
    return FileSystems._pipeline_options or PipelineOptions([])


def encryption() -> EncryptionOptions:
    """How objects are to be encrypted."""
    return storage_options().view_as(EncryptionOptions)


def check_encryption() -> None:
    """Refuse what the stores would refuse, or pass over, object by object.

    Raises:
        EncryptionError: says which option.
    """
    given = encryption()
    kind, key = given.s3_server_side_encryption, given.s3_kms_key_id
    if kind is not None and kind not in _S3_ENCRYPTION:
        raise EncryptionError(
            f"--s3_server_side_encryption={kind} is unknown to S3, which would refuse every "
            f"object; write one of {', '.join(_S3_ENCRYPTION)}."
        )
    if key is not None and not str(kind).startswith("aws:kms"):
        raise EncryptionError(
            f"--s3_kms_key_id={key} is used by --s3_server_side_encryption=aws:kms alone; without "
            f"it objects would have another key. Give both."
        )
    if given.gcs_kms_key is not None and not _GCS_KEY.fullmatch(given.gcs_kms_key):
        raise EncryptionError(
            f"--gcs_kms_key={given.gcs_kms_key} does not name a key, and every object would be "
            f"refused; write projects/P/locations/L/keyRings/R/cryptoKeys/K."
        )


def given_settings(view: Any) -> str:
    """The options of a class of options, as a text that can be a key."""
    return json.dumps(_given(view), default=str)


def _given(view: Any) -> dict[str, Any]:
    options = storage_options().view_as(view)
    found = {name: getattr(options, name) for name in _names(view)}
    return {name: value for name, value in found.items() if value is not None}


@functools.lru_cache(maxsize=4)
def _names(view: Any) -> tuple[str, ...]:
    """Beam would parse all options of all classes, for each object anew."""
    parser = argparse.ArgumentParser(add_help=False)
    view._add_argparse_args(parser)
    return tuple(sorted({action.dest for action in parser._actions}))
