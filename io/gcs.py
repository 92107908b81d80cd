"""Objects of Google Cloud Storage, with one client, and uploads that end whole or not at all.

Beam's writer must not be used: it completes its object when it is closed, and Python closes it
when it is thrown away, so a writer that fails half-way leaves half an object under the name.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import requests
import tenacity
from apache_beam.options.pipeline_options import GoogleCloudOptions
from requests.adapters import HTTPAdapter

from adtally.io.endpoints import GOOGLE_AUTHORITY, refusal
from adtally.io.objects import Entry, encryption, given_settings, split, storage_options

SCHEME: Final = "gs"
EMULATOR_ENV: Final = "STORAGE_EMULATOR_HOST"

RETRY_SECONDS: Final = 120.0
"""How long a request is tried again, as long as Google's client does by itself."""

_PART_BYTES: Final = 16 << 20
"""Of an upload; the client holds one in memory, and would take 100 MB."""

_UPLOADS: Final = 3
"""Of one object, from the beginning, where the one before was lost."""

_LISTED: Final = "items(name,size,updated),nextPageToken"


def open_object(path: str) -> BinaryIO:
    """Open an object for reading, as Beam does.

    Raises:
        OSError, google.api_core.exceptions.GoogleAPIError: it is not there, or cannot be read.
    """
    from apache_beam.io.gcp.gcsio import GcsIO

    with _told(f"{path} cannot be read"):
        file: BinaryIO = GcsIO(_client(_settings()), storage_options()).open(path, "rb")
    return file


def read_range(path: str, start: int, length: int) -> bytes:
    """Bytes of an object, in one request.

    Raises:
        OSError: it is not there, or cannot be read; says why.
    """
    with _told(f"{path} cannot be read"):
        data: bytes = _blob(path).download_as_bytes(
            start=start, end=start + length - 1, raw_download=True, checksum=None, retry=_retry()
        )
    return data


def upload(file: BinaryIO, path: str) -> None:
    """Write an object that appears under its name when all of it is there.

    Up to 8 MB go in one request, larger ones in parts, of which none is seen before the last. The
    store is told the checksum before, and refuses what does not have it.

    Raises:
        OSError: nothing was written; says why.
    """
    size = file.seek(0, os.SEEK_END)
    checksum = _checksum(file)
    with _told(f"{path} was not written"):
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(_begin_again),
            stop=tenacity.stop_after_attempt(_UPLOADS),
            wait=tenacity.wait_random(0.1, 1),
            reraise=True,
        ):
            with attempt:
                _new_blob(path).upload_from_file(
                    file,
                    rewind=True,
                    size=size,
                    content_type="application/octet-stream",
                    retry=_retry(),
                    crc32c_checksum_value=checksum,
                )


def _checksum(file: BinaryIO) -> str:
    """CRC32C of a file, as the store writes it."""
    import google_crc32c

    file.seek(0)
    found = google_crc32c.Checksum()
    for _ in found.consume(file, 1 << 20):
        pass
    return base64.b64encode(found.digest()).decode()


def _begin_again(error: BaseException) -> bool:
    """Whether an upload was lost in the store or got mixed up, and a new one may do.

    Google asks for that after 404 and 410.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.storage.exceptions import DataCorruption

    if isinstance(error, GoogleAPICallError):
        return error.code in (404, 410)
    return isinstance(error, DataCorruption)


def entries(prefix: str) -> Iterator[Entry]:
    """Objects whose addresses begin so, a thousand a request.

    Raises:
        OSError: they cannot be listed; says why.
    """
    bucket, key = split(prefix)
    with _told(f"{prefix} cannot be listed"):
        listed = _client(_settings()).list_blobs(bucket, prefix=key, fields=_LISTED, retry=_retry())
        for blob in listed:
            yield Entry(f"gs://{bucket}/{blob.name}", blob.size, blob.updated.timestamp())


def find(path: str) -> Entry | None:
    """The object of this very address, or None.

    Raises:
        OSError: that cannot be told; says why.
    """
    bucket, key = split(path)
    with _told(f"{path} cannot be looked for"):
        blob = _client(_settings()).bucket(bucket).get_blob(key, retry=_retry())
    return blob and Entry(path, blob.size, blob.updated.timestamp())


def copy(source: str, target: str) -> None:
    """Write an object as another one has it.

    Raises:
        OSError: nothing was written; says why.
    """
    with _told(f"{source} was not copied to {target}"):
        made, token = _new_blob(target), None
        while True:  # large ones take several calls
            token, _, _ = made.rewrite(_blob(source), token=token, retry=_retry())
            if token is None:
                return


def delete(paths: Sequence[str]) -> None:
    """Remove objects; one that is not there is fine.

    Raises:
        OSError: names one that is still there, and says why.
    """
    from google.api_core.exceptions import NotFound

    for path in paths:
        with _told(f"{path} was not removed"), contextlib.suppress(NotFound):
            _blob(path).delete(retry=_retry())


def _blob(path: str, **more: Any) -> Any:
    bucket, key = split(path)
    return _client(_settings()).bucket(bucket).blob(key, **more)


def _new_blob(path: str) -> Any:
    return _blob(path, chunk_size=_PART_BYTES, kms_key_name=encryption().gcs_kms_key)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(RETRY_SECONDS)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of Google's client as OSError, with what they mean."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(f"{what}: {error.message}") from error
    except (GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption) as error:
        raise OSError(f"{what}: {error}") from error
    except requests.RequestException as error:  # an OSError that does not say what it was about
        raise OSError(f"{what}: {error}") from error
    except _NotTrusted as error:
        raise OSError(f"{what}: {error}") from error


def _settings() -> str:
    """Beam's options for Google, and where an emulator is."""
    return given_settings(GoogleCloudOptions) + os.environ.get(EMULATOR_ENV, "")


@functools.lru_cache(maxsize=4)
def _client(settings: str) -> Any:
    """A client of these settings, which threads may share.

    Beam looks for credentials even with ``--no_auth``, for half a minute where there are none.
    """
    from apache_beam.io.gcp.gcsio import create_storage_client

    options = storage_options()
    anonymous = options.view_as(GoogleCloudOptions).no_auth or EMULATOR_ENV in os.environ
    client = create_storage_client(options, use_credentials=not anonymous)
    # Google's client takes a certificate for a connection that was lost, and tries for minutes.
    client._http.mount("https://", _Adapter())
    return client


class _NotTrusted(OSError):
    """The store's certificate is not trusted; trying again does not help."""


class _Adapter(HTTPAdapter):
    def send(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().send(*args, **kwargs)
        except requests.exceptions.SSLError as error:
            why = refusal(error, GOOGLE_AUTHORITY)
            if why:
                raise _NotTrusted(why) from error
            raise
