"""Object stores for tests: real servers, and what tests do with their buckets."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from adtally.runners.local.gcs_server import GcsServer
from adtally.runners.local.kinesis_server import aws_client
from adtally.runners.local.s3_server import S3Server
from tests import streams
from tests.fault_proxy import Request
from tests.nodes import started

KEY_ID = "11111111-2222-3333-4444-555555555555"
KEY_NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k"


class ObjectStore(Protocol):
    """One server.

    Attributes:
        scheme: of its addresses.
        url: where it listens.
        encryption: options that have objects encrypted with a key.
    """

    scheme: str
    url: str
    encryption: tuple[str, ...]

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

    def unencrypted(self, bucket: str, seen: Sequence[Request]) -> list[str]:
        """Objects, or requests to write some, without what ``encryption`` asks for."""

    def stop(self) -> None: ...


class S3Store:
    scheme = "s3"
    encryption = ("--s3_server_side_encryption=aws:kms", f"--s3_kms_key_id={KEY_ID}")

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
        return {
            key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in self._keys(bucket)
        }

    def unfinished(self, bucket: str) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def unencrypted(self, bucket: str, seen: Sequence[Request]) -> list[str]:
        heads = {key: self.client.head_object(Bucket=bucket, Key=key) for key in self._keys(bucket)}
        wanted = ("aws:kms", KEY_ID)
        return [
            key
            for key, head in heads.items()
            if (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")) != wanted
        ]

    def _keys(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def stop(self) -> None:
        self._server.stop()


class GcsStore:
    scheme = "gs"
    encryption = (f"--gcs_kms_key={KEY_NAME}",)

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

    def unencrypted(self, bucket: str, seen: Sequence[Request]) -> list[str]:
        # The server forgets the key, so what it was told has to do.
        writes = [x.path for x in seen if x.method == "POST" and f"/b/{bucket}/o" in x.path]
        assert writes
        named = quote(KEY_NAME, safe="")
        return [path for path in writes if named not in path and "upload_id=" not in path]

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
