"""Object stores for tests: real servers, and what tests do with their buckets."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Protocol

from adtally.runners.local.gcs_server import GcsServer
from adtally.runners.local.kinesis_server import aws_client
from adtally.runners.local.s3_server import S3Server
from tests import streams
from tests.nodes import started


class ObjectStore(Protocol):
    """One server.

    Attributes:
        scheme: of its addresses.
        url: where it listens.
    """

    scheme: str
    url: str

    def arguments(self, url: str) -> tuple[str, ...]:
        """Options that have adtally use the server at this URL."""

    def environment(self, url: str) -> dict[str, str]:
        """Variables that have adtally use the server at this URL."""

    def make_bucket(self) -> str:
        """A new, empty one."""

    def put(self, bucket: str, key: str, data: bytes) -> None: ...

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All that a reader sees, by key."""

    def unfinished(self, bucket: str) -> list[Any]:
        """Uploads that were begun and not ended, where the server can tell."""

    def stop(self) -> None: ...


class S3Store:
    scheme = "s3"

    def __init__(self) -> None:
        self._server = started(S3Server())
        self.url = self._server.url
        self.client: Any = aws_client("s3", self.url)

    def arguments(self, url: str) -> tuple[str, ...]:
        return (f"--s3_endpoint_url={url}",)

    def environment(self, url: str) -> dict[str, str]:
        return streams.AWS

    def make_bucket(self) -> str:
        name = _new_name()
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def objects(self, bucket: str) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def unfinished(self, bucket: str) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def stop(self) -> None:
        self._server.stop()


class GcsStore:
    scheme = "gs"

    def __init__(self) -> None:
        self._server = started(GcsServer())
        self.url = self._server.url
        self.client: Any = self._server.client()

    def arguments(self, url: str) -> tuple[str, ...]:
        return ()

    def environment(self, url: str) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": url}

    def make_bucket(self) -> str:
        name = _new_name()
        self.client.create_bucket(name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.bucket(bucket).blob(key).upload_from_string(data)

    def objects(self, bucket: str) -> dict[str, bytes]:
        return {
            blob.name: blob.download_as_bytes(raw_download=True)
            for blob in self.client.list_blobs(bucket)
        }

    def unfinished(self, bucket: str) -> list[Any]:
        return []  # it has no call that lists them

    def stop(self) -> None:
        self._server.stop()


STORES: dict[str, type[S3Store] | type[GcsStore]] = {"s3": S3Store, "gs": GcsStore}


def _new_name() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


def save(objects: dict[str, bytes], folder: Path) -> Path:
    """Objects as files."""
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
