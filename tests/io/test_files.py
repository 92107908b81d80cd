"""Files appear whole or not at all, whatever stops the writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems

from adtally.io import files
from adtally.io.files import (
    LEFTOVER_SECONDS,
    AtomicFile,
    atomic_write,
    delete,
    list_paths,
    make_folder,
    read_bytes,
    remove_leftovers,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_write(str(path)) as file:
        file.write(b"one")
        file.flush()
        assert not path.exists()
        assert list_paths(f"{tmp_path}/**.bin") == []
    assert path.read_bytes() == b"one"
    assert read_bytes(str(path)) == b"one"
    assert names(tmp_path) == ["new/folder/a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_write(str(tmp_path / "a.bin")) as file:
        file.write(b"half")
        raise error
    assert names(tmp_path) == []


def test_an_exception_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"older")
    with pytest.raises(ValueError), atomic_write(str(path)) as file:
        file.write(b"half")
        raise ValueError
    assert path.read_bytes() == b"older"
    assert names(tmp_path) == ["a.bin"]


def test_a_second_write_replaces_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"older and longer")
    with path.open("rb") as reader:  # one that began before sees the older file to its end
        with atomic_write(str(path)) as file:
            file.write(b"newer")
            assert path.read_bytes() == b"older and longer"
        assert reader.read() == b"older and longer"
    assert path.read_bytes() == b"newer"
    assert names(tmp_path) == ["a.bin"]


def test_two_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(str(path)) as one:
        one.write(b"1" * 100)
        with atomic_write(str(path)) as two:
            two.write(b"2" * 50)
        assert path.read_bytes() == b"2" * 50
        one.write(b"1" * 100)
    assert path.read_bytes() == b"1" * 200


def test_a_file_that_cannot_be_renamed_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.bin" / "inside").mkdir(parents=True)  # a folder holds the name
    with pytest.raises(OSError), atomic_write(str(tmp_path / "a.bin")) as file:
        file.write(b"data")
    assert names(tmp_path) == []


def test_a_disk_that_is_full_at_the_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FileSystems.create

    def create(path: str, **options: str) -> object:
        real(path, **options).close()
        return Path("/dev/full").open("wb")

    monkeypatch.setattr(files.FileSystems, "create", create)
    told = f"No space left on device: '{tmp_path}/a'"
    with pytest.raises(OSError, match=told), atomic_write(str(tmp_path / "a")) as file:
        file.write(b"data")
    with pytest.raises(ValueError, match="mine"), atomic_write(str(tmp_path / "a")) as file:
        file.write(b"data")
        raise ValueError("mine")
    assert names(tmp_path) == []


def test_abort_twice_is_fine(tmp_path: Path) -> None:
    file = AtomicFile(str(tmp_path / "a.bin"))
    file.abort()
    file.abort()
    assert names(tmp_path) == []


KILLED = """
import sys, time
from adtally.io.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"x" * 10_000_000)
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_no_visible_file_and_its_leftovers_can_be_removed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "date=2024-01-01" / "a.parquet"
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == b"written\n"
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL
    assert not path.exists()
    assert list_paths(f"{tmp_path}/**.parquet") == []
    (leftover,) = names(tmp_path)
    assert leftover.endswith(".tmp")
    keep = ["b.parquet", "date=2024-01-01/c.tmp", "date=2024-01-01/.hidden", ".d.tmp.jsonl"]
    for name in keep:
        (tmp_path / name).write_bytes(b"keep")
    assert remove_leftovers(str(tmp_path)) == 0, "its writer may still be at work"
    (left,) = tmp_path.rglob("*.parquet.*.tmp")
    long_ago = time.time() - LEFTOVER_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    assert remove_leftovers(str(tmp_path)) == 1
    assert names(tmp_path) == sorted(keep)
    assert remove_leftovers(str(tmp_path)) == 0


def test_leftovers_of_an_output_that_is_not_there(tmp_path: Path) -> None:
    assert remove_leftovers(str(tmp_path / "none")) == 0
    assert list_paths(str(tmp_path / "none" / "*")) == []


def test_many_threads_may_make_the_same_folder(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        try:
            for number in range(20):
                make_folder(str(tmp_path / str(number) / "deep"))
        except BaseException as error:  # noqa: BLE001 - checked below
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(tmp_path.iterdir())) == 20


def test_delete_removes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    delete([str(tmp_path / "a"), str(tmp_path / "b")])
    delete([])
    assert names(tmp_path) == ["c"]
