"""Objects appear whole or not at all, on servers of this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from adtally.io.files import (
    atomic_write,
    delete,
    exists,
    find,
    list_paths,
    move,
    open_file,
    read_bytes,
)
from tests.stores import ObjectStore


@pytest.fixture
def base(store: ObjectStore) -> str:
    """Address of an empty bucket."""
    return f"{store.scheme}://{store.make_bucket()}"


def bucket_of(base: str) -> str:
    return base.partition("://")[2]


@pytest.mark.parametrize("size", [0, 10, 20 << 20])
def test_what_is_written_is_there(store: ObjectStore, base: str, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    with atomic_write(f"{base}/some/thing") as file:
        file.write(content[:size])
        assert list_paths(f"{base}/**") == []
    assert list_paths(f"{base}/**") == [f"{base}/some/thing"]
    assert [entry.size for entry in find(f"{base}/some/*")] == [size]
    assert store.objects(bucket_of(base)) == {"some/thing": content[:size]}
    assert read_bytes(f"{base}/some/thing") == content[:size]
    assert store.unfinished(bucket_of(base)) == []


def test_what_fails_leaves_what_was_there(store: ObjectStore, base: str) -> None:
    store.put(bucket_of(base), "thing", b"before")
    for path in (f"{base}/thing", f"{base}/other"):
        with pytest.raises(RuntimeError), atomic_write(path) as file:
            file.write(b"x" * (20 << 20))
            raise RuntimeError
    assert store.objects(bucket_of(base)) == {"thing": b"before"}
    assert store.unfinished(bucket_of(base)) == []


def test_an_upload_that_is_refused_is_an_error(store: ObjectStore) -> None:
    with (
        pytest.raises(OSError, match=r"at-all was not written: "),
        atomic_write(f"{store.scheme}://none/at-all") as file,
    ):
        file.write(b"x")
    with pytest.raises(OSError, match=r"none/ cannot be listed: "):
        find(f"{store.scheme}://none/**")


def test_objects_are_read_side_by_side(store: ObjectStore, base: str) -> None:
    contents = {name: bytes([number]) * (17 << 20) for number, name in enumerate("xyz")}
    for name, content in contents.items():
        store.put(bucket_of(base), name, content)
    found = dict.fromkeys(contents, b"")
    files = {name: open_file(f"{base}/{name}") for name in contents}
    while any(parts := {name: file.read(5 << 20) for name, file in files.items()}.values()):
        assert len(set(parts)) == 3
        for name, part in zip(contents, parts, strict=True):
            found[name] += part
    assert found == contents
    files["x"].seek(3)
    assert files["x"].read(2) == b"\0\0"
    with ThreadPoolExecutor(8) as threads:
        paths = [f"{base}/{name}" for name in contents] * 4
        assert list(threads.map(read_bytes, paths)) == list(contents.values()) * 4


def test_an_object_that_is_not_there(base: str) -> None:
    with pytest.raises(OSError, match=r"Not found|cannot be read"):
        read_bytes(f"{base}/nothing")
    assert not exists(f"{base}/nothing")
    assert find(f"{base}/nothing") == []


def test_patterns_find_what_they_say(store: ObjectStore, base: str) -> None:
    names = ("a/1.x", "a/2.x", "a/b/3.x", "a/b/3.y", "ab/4.x", "a+b/5.x")
    for name in names:
        store.put(bucket_of(base), name, name.encode())

    def found(pattern: str) -> list[str]:
        return [path.removeprefix(f"{base}/") for path in list_paths(f"{base}/{pattern}")]

    assert found("**") == sorted(names)
    assert found("a/*.x") == ["a/1.x", "a/2.x"]
    assert found("a/**.x") == ["a/1.x", "a/2.x", "a/b/3.x"]
    assert found("a/[13-9].x") == ["a/1.x"]
    assert found("a+b/?.x") == ["a+b/5.x"]
    assert found("a/b/3.y") == ["a/b/3.y"]
    assert found("a") == []


def test_objects_are_moved_and_removed(store: ObjectStore, base: str) -> None:
    for name in ("one", "two", "three"):
        store.put(bucket_of(base), name, name.encode())
    move(f"{base}/one", f"{base}/else/where")
    delete([f"{base}/two", f"{base}/not-there"])
    delete([])
    assert store.objects(bucket_of(base)) == {"else/where": b"one", "three": b"three"}
    with pytest.raises(OSError, match="not-there was not copied to"):
        move(f"{base}/not-there", f"{base}/x")
