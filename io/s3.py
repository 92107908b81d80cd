"""Objects of S3, with one client: Beam makes one for each call, some 0.1 s of CPU."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any, BinaryIO

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

SCHEME = "s3"


def open_object(path: str) -> BinaryIO:
    """Open an object for reading, as Beam does.

    Args:
        path: ``s3://bucket/key``.

    Raises:
        OSError, apache_beam.io.aws.clients.s3.messages.S3ClientError: it is not there, or cannot be
            read.
    """
    from apache_beam.io.aws.s3io import S3IO

    own = copy.copy(_client(_settings()))  # it remembers where in which object it reads
    file: BinaryIO = S3IO(client=own).open(path, "rb")
    return file


def upload(file: BinaryIO, path: str) -> None:
    """Write an object that appears under its name when all of it is there.

    boto3 sends large ones in parts, side by side, tries parts again, and gives the upload up where
    that does not help.

    Args:
        file: what to write, from its beginning.
        path: ``s3://bucket/key``.

    Raises:
        OSError: nothing was written; says why.
    """
    bucket, _, key = path.removeprefix("s3://").partition("/")
    file.seek(0)
    try:
        _client(_settings()).client.upload_fileobj(file, bucket, key)
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise OSError(f"{path} was not written: {error}") from error


def _settings() -> str:
    """Beam's options for S3."""
    options = FileSystems._pipeline_options or PipelineOptions([])
    given = options.view_as(S3Options).get_all_options(drop_default=True)
    return json.dumps({name: given[name] for name in sorted(given) if name.startswith("s3_")})


@functools.lru_cache(maxsize=4)
def _client(settings: str) -> Any:
    """Beam's client of these settings; what it makes calls with may be shared by threads."""
    from apache_beam.io.aws.clients.s3 import boto3_client

    return boto3_client.Client(json.loads(settings))
