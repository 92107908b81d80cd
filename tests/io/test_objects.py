"""Objects appear whole or not at all, on servers of this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from apache_beam.internal import pickler
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from click.testing import CliRunner

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
from adtally.io.flush import Flush
from adtally.io.objects import EncryptionOptions, encryption, storage_options
from adtally.io.sinks import _WriteLogPane
from adtally.pipelines.cli import cli
from adtally.runners.direct import use_storage
from tests.fault_proxy import FaultProxy
from tests.stores import GcsStore, ObjectStore, S3Store


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
            file.write(b"x" * (9 << 20))
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
        paths = [f"{base}/{name}" for name in contents] * 2
        assert list(threads.map(read_bytes, paths)) == list(contents.values()) * 2


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


@pytest.mark.parametrize("size", [10, 9 << 20])
def test_what_is_written_or_moved_is_encrypted(
    store: ObjectStore, proxy: FaultProxy, base: str, size: int
) -> None:
    use_storage((*store.arguments(proxy.url), *store.encryption))
    for name in ("one", "two"):
        with atomic_write(f"{base}/{name}") as file:
            file.write(b"x" * size)
    move(f"{base}/two", f"{base}/three")
    assert store.objects(bucket_of(base)).keys() == {"one", "three"}
    assert store.unencrypted(bucket_of(base), proxy.seen) == []


@pytest.mark.parametrize("kind", ["AES256", "aws:kms", "aws:kms:dsse"])
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_each_encryption_of_s3(store: S3Store, base: str, kind: str) -> None:
    use_storage((*store.arguments(store.url), f"--s3_server_side_encryption={kind}"))
    with atomic_write(f"{base}/one") as file:
        file.write(b"x")
    head = store.client.head_object(Bucket=bucket_of(base), Key="one")
    assert head["ServerSideEncryption"] == kind


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--s3_server_side_encryption=AES128", "unknown to S3"),
        ("--s3_kms_key_id=k", "Give both"),
        ("--gcs_kms_key=k", "does not name a key"),
    ],
)
def test_an_encryption_that_there_is_not_is_refused(given: str, told: str) -> None:
    done = CliRunner().invoke(cli, ["backfill", "--input", "x", "--output", "y", given])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    use_storage([])


def test_workers_are_told_of_the_encryption() -> None:
    given = (*S3Store.encryption, *GcsStore.encryption)
    sent = PipelineOptions(list(given)).get_all_options(drop_default=True)
    there = PipelineOptions.from_dictionary(sent).view_as(EncryptionOptions)
    assert there.s3_server_side_encryption == "aws:kms"
    assert there.s3_kms_key_id and there.gcs_kms_key


def test_what_reaches_files_brings_its_options_to_a_worker_that_was_started_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of a worker pool: objects would go elsewhere, and not be encrypted."""
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    given = ["--s3_endpoint_url=http://here", "--s3_server_side_encryption=aws:kms"]
    use_storage([*given, "--s3_secret_access_key=hush"])
    sent = pickler.dumps(_WriteLogPane("s3://a/b", Flush("job")))
    FileSystems._pipeline_options = None
    assert pickler.loads(sent)._folder == "s3://a/b"
    assert encryption().s3_server_side_encryption == "aws:kms"
    s3 = storage_options().view_as(S3Options)
    assert (s3.s3_endpoint_url, s3.s3_secret_access_key) == ("http://here", None)

    FileSystems.set_options(PipelineOptions(["--s3_endpoint_url=http://there"]))  # Beam's word
    pickler.loads(sent)
    assert storage_options().view_as(S3Options).s3_endpoint_url == "http://there"
