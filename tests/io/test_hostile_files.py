"""Files that were made to harm: bombs, lines without an end, pipes, and names that give orders."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from adtally.io import decompress
from adtally.io.decompress import decompressed
from adtally.io.limits import Limits
from adtally.io.logs import Block, NoInput, Span, list_files, pack
from adtally.io.read_logs import LogChunk, read_chunks
from adtally.io.shown import Formatter, shown, shown_line

MIB = 1 << 20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 9, mtime=0),
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".bz2": bz2.compress,
}


def chunks_of(path: Path, limits: Limits | None = None, chunk_bytes: int = MIB) -> list[LogChunk]:
    files, _ = list_files([str(path)])
    (block,) = pack(files)
    return list(read_chunks(block, chunk_bytes, limits))


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("filler", [b"\0" * 10_000, b'{"a":"' + b"x" * 9_991 + b'"}\n'])
def test_a_bomb_ends_where_its_limit_is(tmp_path: Path, ending: str, filler: bytes) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](b'{"b":1}\n') + COMPRESS[ending](filler * 2_500) * 3)
    chunks = chunks_of(path)
    assert chunks[0].data.startswith(b'{"b":1}\n')
    (entry,) = [entry for chunk in chunks for entry in chunk.unreadable]
    assert entry.error_type == "expands_too_much"
    assert "--max-expansion" in entry.message
    read = sum(line.line_bytes for chunk in chunks for line in chunk.cut)
    read += sum(len(chunk.data) for chunk in chunks)
    assert 64 * MIB < read < 68 * MIB
    assert 64 * MIB < entry.position < 68 * MIB
    assert not any(chunk.unreadable for chunk in chunks_of(path, Limits(ratio=10**9)))


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_file_ends_at_the_bytes_that_it_may_have(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](b'{"a":1}\n' * 1_000))
    (chunk,) = chunks_of(path, Limits(file_bytes=7_999))
    assert [entry.error_type for entry in chunk.unreadable] == ["expands_too_much"]
    assert not chunks_of(path, Limits(file_bytes=8_000))[0].unreadable


@pytest.mark.parametrize(("ending", "name"), [(".gz", "gzip"), (".zst", "zstd"), (".bz2", "bzip2")])
def test_no_step_gives_more_than_some_megabytes(tmp_path: Path, ending: str, name: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(COMPRESS[ending](b"\0" * 40 * MIB))
    with path.open("rb") as file:
        sizes = [len(piece) for piece in decompressed(file, name)]
    assert sum(sizes) == 40 * MIB
    assert max(sizes) <= MIB


def test_a_frame_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    machine = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(machine.compress(b'{"a":1}\n' * 1_000) + machine.flush())
    (chunk,) = chunks_of(path)
    assert [entry.error_type for entry in chunk.unreadable] == ["broken_file"]
    assert "memory" in chunk.unreadable[0].message


@pytest.mark.parametrize("ending", ["", *COMPRESS])
def test_a_line_without_an_end_is_passed_over_and_what_follows_is_read(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    data = b'{"a":1}\n' + b"z" * (9 * MIB) + b'\n{"b":2}\n{"c":' + b"3" * 6 * MIB
    path.write_bytes(COMPRESS[ending](data) if ending else data)
    limits = Limits(record_bytes=MIB, ratio=10**6)
    chunks = chunks_of(path, limits, chunk_bytes=2 * MIB)
    assert sum(len(chunk.data) for chunk in chunks) == 8 + 2 * (MIB + 2) + 8
    cut = [(line.line_bytes, chunk) for chunk in chunks for line in chunk.cut]
    assert [size for size, _ in cut] == [9 * MIB, 6 * MIB + 5]
    places = [(one.source_offset, len(chunk.data)) for chunk in chunks for one in chunk.segments]
    offsets = [offset for offset, _ in places]
    assert offsets[0] == 0 and 9 + 9 * MIB in offsets and 17 + 9 * MIB in offsets


def test_a_line_over_many_ranges_is_read_by_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n' + b"z" * (8 * MIB) + b'\n{"b":2}\n')
    (file,), _ = list_files([str(path)])
    size = file.stored_bytes
    read = []
    for start in range(0, size, MIB):
        block = Block("b", (Span(file, start, min(start + MIB, size)),))
        read += list(read_chunks(block, MIB, Limits(record_bytes=MIB)))
    assert [line.line_bytes for chunk in read for line in chunk.cut] == [8 * MIB]
    assert [one.source_offset for chunk in read for one in chunk.segments] == [*(0, 8, 9 + 8 * MIB)]


MEASURED = """
import resource, sys
from adtally.io.logs import list_files, pack
from adtally.io.read_logs import read_chunks
from adtally.io.limits import Limits
(block,) = pack(list_files([sys.argv[1]])[0], 1 << 40)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for chunk in read_chunks(block, limits=Limits(ratio=10**9)):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("ending", ["", ".zst"])
def test_memory_is_bounded_whatever_a_file_holds(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    if ending:
        path.write_bytes(COMPRESS[ending](b"\0" * 50 * MIB) * 5)
    else:
        path.touch()
        os.truncate(path, 250 * MIB)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 120  # MB, of 250


def test_what_is_no_regular_file_neither_hangs_nor_vanishes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.jsonl", "[red]b*?[/red].jsonl", "c\nd.jsonl", "e\x1b[2J.jsonl"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"{}\n")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "sub" / "loop").symlink_to("..")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    files, passed_over = list_files([str(tmp_path)])
    assert len(files) == 5
    assert [one.removeprefix(f"{tmp_path}/") for one in passed_over] == [
        "gone.jsonl (a link to nothing)",
        "pipe.jsonl (a pipe)",
        "sub/loop (a link to a folder)",
    ]
    for path in (str(tmp_path / "pipe.jsonl"), "/dev/zero"):
        with pytest.raises(NoInput, match=r"may never end.*Write it to a file first"):
            list_files([path])


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refusing(path: str) -> object:  # root, as in a container, may list anything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(NoInput, match=r"closed' cannot be listed \(Permission denied\)"):
        list_files([str(tmp_path)])


def test_nothing_of_others_gives_orders_to_a_terminal() -> None:
    text = "a\x1b[2Jb\x9b\u202e\udce9\r\n\té"
    assert shown(text) == "a\\x1b[2Jb\\x9b\\u202e\\udce9\\r\n\té"
    assert shown_line(text) == "a\\x1b[2Jb\\x9b\\u202e\\udce9\\r\\n\\té"
    record = logging.LogRecord("n", logging.INFO, "p", 1, "%s", ("x\n2026 ERROR forged\x1b",), None)
    assert Formatter("%(message)s").format(record) == "x\\n2026 ERROR forged\\x1b"


def test_zstd_is_given_little_at_a_time() -> None:
    assert decompress._ZSTD_BYTES * 32_768 <= 32 * MIB  # 128 KiB in four bytes: RFC 8878, 3.1.1.2
