"""Objects of S3, with one client: Beam makes one for each call, some 0.1 s of CPU."""

from __future__ import annotations

import contextlib
import copy as copying
import datetime
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from apache_beam.options.pipeline_options import S3Options
from apache_beam.utils.retry import PermanentException
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp

from adtally.io.endpoints import AWS_AUTHORITY, check_url, is_plain, quiet_aws, refusal, warn_once
from adtally.io.objects import Entry, encryption, given_settings, split, storage_options

SCHEME: Final = "s3"

ATTEMPTS: Final = 10
"""Of each request; waits double up to 20 s, so some 50 s in all. ``AWS_MAX_ATTEMPTS`` sets it."""

_LOG = logging.getLogger("adtally.s3")
_DELETED_AT_ONCE: Final = 1_000  # what S3 takes
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})


class StorageError(ValueError):
    """Options for S3 that would show what nobody should see; the message says what to do."""


def check_reach() -> None:
    """Refuse options of Beam that tell secrets, or send what nobody else should read.

    A secret among them would be in the list of processes, in the options of a job, and in what
    Flink shows of it.

    Raises:
        StorageError: names the option, and not its value.
    """
    given = storage_options().view_as(S3Options)
    for name, instead in (
        ("s3_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("s3_session_token", "AWS_SESSION_TOKEN"),
    ):
        if getattr(given, name) is not None:
            raise StorageError(
                f"--{name} would be seen in the list of processes and in the job; leave it out, "
                f"and set {instead}, AWS_PROFILE, or the role of the machine."
            )
    if given.s3_disable_ssl:
        raise StorageError(
            "--s3_disable_ssl would have objects, and the token of temporary credentials, read on "
            "the way; leave it out. A server of your own without TLS is --s3_endpoint_url=http://."
        )
    if given.s3_verify is not None and not Path(given.s3_verify).is_file():
        raise StorageError(
            f"--s3_verify={given.s3_verify} is no file, and certificates are always verified; give "
            f"the PEM file of the authority that signed them."
        )
    if given.s3_endpoint_url is not None:
        try:
            check_url("--s3_endpoint_url", given.s3_endpoint_url)
        except ValueError as error:
            raise StorageError(str(error)) from error
        if is_plain(given.s3_endpoint_url):
            warn_once(
                _LOG,
                f"{given.s3_endpoint_url} is not encrypted: objects, and the token of temporary "
                f"credentials, can be read on the way; write https://",
            )


def open_object(path: str) -> BinaryIO:
    """Open an object for reading, as Beam does.

    Raises:
        OSError, apache_beam.io.aws.clients.s3.messages.S3ClientError: it is not there, or cannot be
            read.
    """
    from apache_beam.io.aws.s3io import S3IO

    own = copying.copy(_client())  # it remembers where in which object it reads
    with _told(f"{path} cannot be read"):
        file: BinaryIO = S3IO(client=own).open(path, "rb")
    return file


def read_range(path: str, start: int, length: int) -> bytes:
    """Bytes of an object, in one request.

    Raises:
        OSError: it is not there, or cannot be read; says why.
    """
    bucket, key = split(path)
    with _told(f"{path} cannot be read"):
        wanted = f"bytes={start}-{start + length - 1}"
        data: bytes = _boto3().get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].read()
    return data


def upload(file: BinaryIO, path: str) -> None:
    """Write an object that appears under its name when all of it is there.

    boto3 sends large ones in parts, side by side, tries parts again, and gives the upload up where
    that does not help.

    Raises:
        OSError: nothing was written; says why.
    """
    bucket, key = split(path)
    file.seek(0)
    with _told(f"{path} was not written"):
        _boto3().upload_fileobj(file, bucket, key, ExtraArgs=_encrypted())


def entries(prefix: str) -> Iterator[Entry]:
    """Objects whose addresses begin so, a thousand a request.

    Raises:
        OSError: they cannot be listed; says why.
    """
    bucket, key = split(prefix)
    with _told(f"{prefix} cannot be listed"):
        for page in _boto3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", ()):
                yield _entry(f"s3://{bucket}/{item['Key']}", item["Size"], item["LastModified"])


def find(path: str) -> Entry | None:
    """The object of this very address, or None.

    Raises:
        OSError: that cannot be told; says why.
    """
    bucket, key = split(path)
    with _told(f"{path} cannot be looked for"):
        try:
            found = _boto3().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _ABSENT:
                return None
            raise
    return _entry(path, found["ContentLength"], found["LastModified"])


def copy(source: str, target: str) -> None:
    """Write an object as another one has it.

    Raises:
        OSError: nothing was written; says why.
    """
    from_bucket, from_key = split(source)
    bucket, key = split(target)
    with _told(f"{source} was not copied to {target}"):
        _boto3().copy({"Bucket": from_bucket, "Key": from_key}, bucket, key, ExtraArgs=_encrypted())


def delete(paths: Sequence[str]) -> None:
    """Remove objects; one that is not there is fine.

    Raises:
        OSError: names one that is still there, and says why.
    """
    by_bucket: dict[str, list[str]] = {}
    for path in paths:
        bucket, key = split(path)
        by_bucket.setdefault(bucket, []).append(key)
    for bucket, keys in by_bucket.items():
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            some = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
            with _told(f"objects of s3://{bucket} were not removed"):
                done = _boto3().delete_objects(
                    Bucket=bucket, Delete={"Objects": some, "Quiet": True}
                )
            for failed in done.get("Errors", ()):
                raise OSError(
                    f"s3://{bucket}/{failed['Key']} was not removed: {failed.get('Message')}"
                )


def _time(text: Any) -> datetime.datetime:
    """A time of an answer. botocore's own parser takes most of the time of a long listing."""
    try:
        return datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)


def _encrypted() -> dict[str, str]:
    """Arguments of everything that is written."""
    wanted = encryption()
    given = {
        "ServerSideEncryption": wanted.s3_server_side_encryption,
        "SSEKMSKeyId": wanted.s3_kms_key_id,
    }
    return {name: value for name, value in given.items() if value is not None}


def _entry(path: str, size: int, updated: Any) -> Entry:
    return Entry(path, size, updated.timestamp())


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of boto3 as OSError, with what they mean."""
    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError, PermanentException) as error:
        raise OSError(f"{what}: {refusal(error, AWS_AUTHORITY) or error}") from error


def _boto3() -> Any:
    return _client().client


def _client() -> Any:
    mode = os.environ.get("AWS_RETRY_MODE", "standard")
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
    return _made_client(given_settings(S3Options), mode, attempts)


@functools.lru_cache(maxsize=4)
def _made_client(settings: str, mode: str, attempts: int) -> Any:
    """Beam's client of Beam's options for S3; what it makes calls with may be shared by threads.

    Beam's own gives a request five attempts and some seconds, too few for a bucket that is slowed
    down (503 SlowDown), so it gets another one.
    """
    import boto3
    import botocore.session
    from apache_beam.io.aws.clients.s3 import boto3_client
    from botocore.config import Config

    quiet_aws()
    given = json.loads(settings)
    made: Any = boto3_client.Client(given)
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_time)
    made.client = boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=given.get("s3_region_name"),
        api_version=given.get("s3_api_version"),
        use_ssl=not given.get("s3_disable_ssl", False),
        verify=given.get("s3_verify"),
        endpoint_url=given.get("s3_endpoint_url"),
        aws_access_key_id=given.get("s3_access_key_id"),
        aws_secret_access_key=given.get("s3_secret_access_key"),
        aws_session_token=given.get("s3_session_token"),
        config=Config(retries={"mode": mode, "total_max_attempts": attempts}),
    )
    # boto3 and Beam take a certificate for a connection that was lost, and try for minutes.
    made.client.meta.events.register_first("needs-retry.s3", _end_where_tls_is_refused)
    made.get_object_metadata = functools.partial(_asked, made.get_object_metadata)
    return made


def _end_where_tls_is_refused(caught_exception: Exception | None, **_: Any) -> None:
    if caught_exception is not None and refusal(caught_exception, AWS_AUTHORITY):
        raise caught_exception


def _asked(ask: Callable[[Any], Any], request: Any) -> Any:
    from apache_beam.io.aws.clients.s3.messages import S3ClientError

    try:
        return ask(request)
    except S3ClientError as error:
        if refusal(error, AWS_AUTHORITY):
            raise PermanentException(str(error)) from error
        raise
