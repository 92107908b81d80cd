"""Objects of S3, written whole."""

from __future__ import annotations

import functools
import json
from typing import Any, BinaryIO

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError


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
    options = FileSystems._pipeline_options or PipelineOptions([])
    given = options.view_as(S3Options).get_all_options(drop_default=True)
    known = {name: given[name] for name in sorted(given) if name.startswith("s3_")}
    file.seek(0)
    try:
        _client(json.dumps(known)).upload_fileobj(file, bucket, key)
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise OSError(f"{path} was not written: {error}") from error


@functools.lru_cache(maxsize=4)
def _client(settings: str) -> Any:
    """A client of these settings; Beam makes one for each call, which takes some 0.1 s of CPU."""
    from apache_beam.io.aws.clients.s3 import boto3_client

    return boto3_client.Client(json.loads(settings)).client
