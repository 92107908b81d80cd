"""Objects of S3 appear whole or not at all, on a server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adtally.io.files import atomic_write, list_paths, open_file, read_bytes
from adtally.runners.direct import use_storage
from adtally.runners.local.s3_server import S3Server
from tests import streams


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    with S3Server(tmp_path / "s3") as server:
        client = streams.aws_client("s3", server.url)
        client.create_bucket(Bucket="bucket")
        use_storage([f"--s3_endpoint_url={server.url}"])
        yield client
    use_storage([])


def uploads(client: Any) -> list[Any]:
    """Those that were begun and not finished, which cost money for ever."""
    return list(client.list_multipart_uploads(Bucket="bucket").get("Uploads", []))


@pytest.mark.parametrize("size", [0, 10, 20 << 20])
def test_what_is_written_is_there(client: Any, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    with atomic_write("s3://bucket/some/thing") as file:
        file.write(content[:size])
        assert list_paths("s3://bucket/**") == []
    assert list_paths("s3://bucket/**") == ["s3://bucket/some/thing"]
    assert read_bytes("s3://bucket/some/thing") == content[:size]
    assert uploads(client) == []


def test_what_fails_leaves_what_was_there(client: Any) -> None:
    client.put_object(Bucket="bucket", Key="thing", Body=b"before")
    with pytest.raises(RuntimeError), atomic_write("s3://bucket/thing") as file:
        file.write(b"x" * (20 << 20))
        raise RuntimeError
    assert read_bytes("s3://bucket/thing") == b"before"
    assert list_paths("s3://bucket/**") == ["s3://bucket/thing"]
    assert uploads(client) == []


def test_an_upload_that_is_refused_is_an_error(client: Any) -> None:
    with (
        pytest.raises(OSError, match=r"at-all was not written: .*NoSuchBucket"),
        atomic_write("s3://none/at-all") as file,
    ):
        file.write(b"x")


def test_objects_are_read_side_by_side(client: Any) -> None:
    contents = {name: bytes([number]) * (17 << 20) for number, name in enumerate("xyz")}
    for name, content in contents.items():
        client.put_object(Bucket="bucket", Key=name, Body=content)
    found = dict.fromkeys(contents, b"")
    files = {name: open_file(f"s3://bucket/{name}") for name in contents}
    while any(parts := {name: file.read(5 << 20) for name, file in files.items()}.values()):
        assert len(set(parts)) == 3
        for name, part in zip(contents, parts, strict=True):
            found[name] += part
    assert found == contents
    files["x"].seek(3)
    assert files["x"].read(2) == b"\0\0"
    with ThreadPoolExecutor(8) as threads:
        paths = [f"s3://bucket/{name}" for name in contents] * 8
        assert list(threads.map(read_bytes, paths)) == list(contents.values()) * 8


def test_an_object_that_is_not_there(client: Any) -> None:
    with pytest.raises(OSError, match="Not found"):
        read_bytes("s3://bucket/nothing")
