"""Reading logs: every line once, at its exact offset, whatever the splits, chunks and damage."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.localfilesystem import LocalFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adtally.io.decompress import STORED_BYTES, decompressed
from adtally.io.limits import Limits
from adtally.io.logs import Block, LogFile, Span, list_files, pack
from adtally.io.read_logs import (
    READ_ATTEMPTS,
    LogChunk,
    UnreadableFile,
    prefetched,
    read_chunks,
)

BOM = b"\xef\xbb\xbf"
MEMBERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "bzip2": bz2.compress,
}
ENDINGS = {"gzip": ".gz", "zstd": ".zst", "bzip2": ".bz2"}
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

lines_of_bytes = st.lists(
    st.one_of(
        st.sampled_from([b"", b"\r", b" ", b"{}", b'{"a":1}\r', "é€😀".encode(), b"\x00\xff", BOM]),
        st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")),
        st.integers(20, 300).map(lambda size: b"h" * size),
    ),
    max_size=12,
)


def expected_lines(data: bytes) -> list[tuple[int, bytes]]:
    """(offset, line without its line feed), found the slow and obvious way."""
    start = len(BOM) if data.startswith(BOM) else 0
    found = []
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        found.append((start, data[start:end]))
        start = end + 1
    return found


def lines_in(chunks: list[LogChunk]) -> list[tuple[str, int, bytes]]:
    """(source, offset, line) of chunks, by the addresses that their segments give."""
    found = []
    for number, chunk in enumerate(chunks):
        assert chunk.sequence == number
        assert not chunk.data or chunk.data.endswith(b"\n")
        starts = [segment.chunk_offset for segment in chunk.segments]
        assert starts == sorted(set(starts))
        assert bool(chunk.data) == bool(starts)
        ends = [*starts[1:], len(chunk.data)] if starts else []
        for segment, end in zip(chunk.segments, ends, strict=True):
            at = segment.chunk_offset
            while at < end:
                stop = chunk.data.index(b"\n", at)
                offset = segment.source_offset + at - segment.chunk_offset
                found.append((segment.source, offset, chunk.data[at:stop]))
                at = stop + 1
    return found


def unreadable_in(chunks: list[LogChunk]) -> list[UnreadableFile]:
    return [entry for chunk in chunks for entry in chunk.unreadable]


def spans_of(file: LogFile, cuts: list[int]) -> tuple[Span, ...]:
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < file.stored_bytes}), file.stored_bytes]
    return tuple(Span(file, a, b) for a, b in itertools.pairwise(borders))


def plain_file(path: Path, data: bytes) -> LogFile:
    path.write_bytes(data)
    return LogFile(str(path), len(data), "json", "none")


def read_file(path: Path, chunk_bytes: int = 1 << 20) -> list[LogChunk]:
    files, _ = list_files([str(path)])
    (block,) = pack(files)
    return list(read_chunks(block, chunk_bytes))


# --- plain files ---------------------------------------------------------------------------------


@SETTINGS
@given(
    lines=lines_of_bytes,
    final=st.booleans(),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    chunk_bytes=st.integers(1, 400),
)
@example(lines=[b"abc", b"defgh"], final=True, bom=False, cuts=[1, 2, 3, 4, 5], chunk_bytes=1)
@example(lines=[b"x" * 300, b"y"], final=False, bom=True, cuts=[1, 2, 100, 200], chunk_bytes=7)
@example(lines=[b"", b"", b""], final=True, bom=False, cuts=[1, 2], chunk_bytes=1)
def test_any_ranges_give_every_line_once_at_its_offset(
    tmp_path: Path, lines: list[bytes], final: bool, bom: bool, cuts: list[int], chunk_bytes: int
) -> None:
    data = (BOM if bom else b"") + b"\n".join(lines) + (b"\n" if final and lines else b"")
    file = plain_file(tmp_path / "a.jsonl", data)
    # Each span in a block of its own, as workers read them, and all of them in one.
    apart = []
    for span in spans_of(file, cuts):
        chunks = list(read_chunks(Block("b", (span,)), chunk_bytes))
        assert not unreadable_in(chunks)
        apart += lines_in(chunks)
    expected = [(file.path, offset, line) for offset, line in expected_lines(data)]
    assert apart == expected
    together = list(read_chunks(Block("b", spans_of(file, cuts)), chunk_bytes))
    assert lines_in(together) == expected
    assert sum(chunk.files for chunk in together) == 1
    assert sum(chunk.stored_bytes for chunk in together) == len(data)


@pytest.mark.parametrize("cut", [-2, -1, 0, 1, 2])
def test_a_range_border_near_a_line_end_moves_nothing(tmp_path: Path, cut: int) -> None:
    data = b"".join(b'{"n":%d,"t":"caf\xc3\xa9"}\r\n' % n for n in range(1000))
    file = plain_file(tmp_path / "a.jsonl", data)
    border = data.index(b"\n", len(data) // 2) + 1 + cut
    chunks = [
        chunk for span in spans_of(file, [border]) for chunk in read_chunks(Block("b", (span,)))
    ]
    found = []
    for chunk in chunks:
        found += lines_in([chunk])
    assert [(offset, line) for _, offset, line in found] == expected_lines(data)


def test_a_line_larger_than_read_buffers_and_chunks(tmp_path: Path) -> None:
    data = b'{"a":1}\n' + b"z" * (5 << 20) + b'\n{"b":2}'
    file = plain_file(tmp_path / "a.jsonl", data)
    for cuts in ([], [1 << 20, 2 << 20, 3 << 20]):
        found = []
        for span in spans_of(file, cuts):
            chunks = read_chunks(Block("b", (span,)), 4096, Limits(record_bytes=6 << 20))
            found += lines_in(list(chunks))
        assert [(offset, line) for _, offset, line in found] == expected_lines(data)


def test_many_small_files_share_a_chunk_and_keep_their_addresses(tmp_path: Path) -> None:
    contents = {f"{n:02}.jsonl": b'{"n":%d}' % n + b"\n" * (n % 3) for n in range(20)}
    contents["07.jsonl"] = b""
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    files, _ = list_files([str(tmp_path)])
    (block,) = pack(files)
    chunks = list(read_chunks(block))
    assert len(chunks) == 1
    assert lines_in(chunks) == [
        (str(tmp_path / name), offset, line)
        for name, data in sorted(contents.items())
        for offset, line in expected_lines(data)
    ]
    assert chunks[0].files == 20
    assert chunks[0].stored_bytes == sum(map(len, contents.values()))


# --- compressed files ----------------------------------------------------------------------------


def test_a_byte_order_mark_alone_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(BOM)
    assert lines_in(read_file(path)) == []


@pytest.mark.parametrize("compression", MEMBERS)
@settings(parent=SETTINGS, max_examples=60)
@given(
    lines=lines_of_bytes,
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    padding=st.sampled_from([0, 1, 511]),
    chunk_bytes=st.integers(1, 400),
)
def test_members_anywhere_give_every_line_once(
    tmp_path: Path,
    compression: str,
    lines: list[bytes],
    bom: bool,
    cuts: list[int],
    padding: int,
    chunk_bytes: int,
) -> None:
    data = (BOM if bom else b"") + b"\n".join(lines)
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(borders)]
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(b"".join(map(MEMBERS[compression], parts)) + b"\0" * padding)
    chunks = read_file(path, chunk_bytes)
    assert unreadable_in(chunks) == []
    assert [(offset, line) for _, offset, line in lines_in(chunks)] == expected_lines(data)


@pytest.mark.parametrize("compression", MEMBERS)
@settings(parent=SETTINGS, max_examples=60)
@given(
    parts=st.lists(st.binary(max_size=30), min_size=1, max_size=4),
    padding=st.sampled_from([0, 1, 600]),
    step=st.integers(1, 50),
)
def test_members_and_padding_may_lie_across_reads(
    compression: str, parts: list[bytes], padding: int, step: int
) -> None:
    stored = b"".join(MEMBERS[compression](part) + b"\0" * padding for part in parts)
    assert b"".join(decompressed(io.BytesIO(stored), compression, step_bytes=step)) == b"".join(
        parts
    )


@pytest.mark.parametrize("compression", MEMBERS)
def test_an_empty_compressed_file_has_no_lines(tmp_path: Path, compression: str) -> None:
    for name, stored in (("none", b""), ("member", MEMBERS[compression](b""))):
        path = tmp_path / f"{name}.jsonl{ENDINGS[compression]}"
        path.write_bytes(stored)
        chunks = read_file(path)
        assert (lines_in(chunks), unreadable_in(chunks)) == ([], [])
        assert chunks[0].files == 1


def noisy_log(lines: int) -> bytes:
    """Lines that hardly compress, so that damage can be placed anywhere in the stored bytes."""
    rng = random.Random(7)
    return b"".join(
        b'{"n":%d,"r":"%s"}\n' % (n, rng.randbytes(60).hex().encode()) for n in range(lines)
    )


@pytest.mark.parametrize("compression", MEMBERS)
@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_gives_what_comes_before_and_one_entry(
    tmp_path: Path, compression: str, kept: float
) -> None:
    data = noisy_log(20_000)
    stored = MEMBERS[compression](data)
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(stored[: max(1, int(len(stored) * kept))])
    after = tmp_path / "b.jsonl"
    after.write_bytes(b'{"after":1}\n')
    files, _ = list_files([str(tmp_path)])
    (block,) = pack(files)
    chunks = list(read_chunks(block, 100_000))
    (entry,) = unreadable_in(chunks)
    assert (entry.source, entry.error_type) == (str(path), "broken_file")
    assert "truncated" in entry.message
    lines = lines_in(chunks)
    assert lines[-1] == (str(after), 0, b'{"after":1}')
    found = [line for line in lines if line[0] == str(path)]
    expected = expected_lines(data)
    assert [line[1:] for line in found[:-1]] == expected[: max(0, len(found) - 1)]
    if found:
        offset, line = expected[len(found) - 1]
        assert found[-1][1] == offset
        assert line.startswith(found[-1][2])
    if kept >= 0.5:  # a compressor's block is at most 900 kB of 2.7 MB, so most is there
        assert len(found) >= (kept - 0.34) * len(expected)
    assert sum(chunk.files for chunk in chunks) == 2


@pytest.mark.parametrize("compression", MEMBERS)
def test_damage_in_the_middle_gives_what_comes_before_and_one_entry(
    tmp_path: Path, compression: str
) -> None:
    data = noisy_log(20_000)
    stored = bytearray(MEMBERS[compression](data))
    middle = len(stored) // 2
    for at in range(middle, middle + 4000):
        stored[at] ^= 0xA5
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(stored)
    chunks = read_file(path)
    (entry,) = unreadable_in(chunks)
    assert entry.error_type == "broken_file"
    found = [(offset, line) for _, offset, line in lines_in(chunks)]
    same = sum(a == b for a, b in zip(found, expected_lines(data), strict=False))
    # Of the half before the damage, what one step or one block of the compressor holds is lost.
    # gzip may decode rubbish before it notices; that fails to parse and becomes dead letters.
    assert same >= {"gzip": 0.4, "zstd": 0.4, "bzip2": 0.3}[compression] * 20_000


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damage_near_the_end_of_a_small_file_costs_little(tmp_path: Path, compression: str) -> None:
    """All of it fits into one step of decompression, and must not go with the error."""
    data = noisy_log(600)
    members = [MEMBERS[compression](data[at : at + 8_000]) for at in range(0, len(data), 8_000)]
    members[-2] = members[-2][:20] + b"\xff" * (len(members[-2]) - 20)
    stored = b"".join(members)
    assert len(stored) < STORED_BYTES
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(stored)
    chunks = read_file(path)
    (entry,) = unreadable_in(chunks)
    found = [(offset, line) for _, offset, line in lines_in(chunks)]
    sound = 8_000 * (len(members) - 2) - 2_000
    assert sum(len(line) + 1 for _, line in found) >= sound
    assert found[: sound // 160] == expected_lines(data)[: sound // 160]
    assert entry.position >= sound


@pytest.mark.parametrize("compression", MEMBERS)
def test_plain_text_under_a_compressed_name_is_one_entry(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(b'{"a":1}\n{"b":2}\n')
    chunks = read_file(path)
    (entry,) = unreadable_in(chunks)
    assert (entry.source, entry.position, entry.error_type) == (str(path), 0, "broken_file")
    assert compression in entry.message
    assert lines_in(chunks) == []


@pytest.mark.parametrize("compression", MEMBERS)
def test_rubbish_after_the_last_member_keeps_the_lines(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.jsonl{ENDINGS[compression]}"
    path.write_bytes(MEMBERS[compression](b'{"a":1}\n') + b"this is no member at all")
    chunks = read_file(path)
    assert len(unreadable_in(chunks)) == 1
    assert [line for _, _, line in lines_in(chunks)] == [b'{"a":1}']


# --- files that fail while they are read ---------------------------------------------------------


class FlakyFileSystem(LocalFileSystem):
    """Local files whose reading breaks off in the middle, ``failures`` times."""

    failures = 0
    opened = 0
    error: Exception = OSError("connection reset by peer")

    @classmethod
    def scheme(cls) -> str:
        return "flaky"

    def open(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.AUTO,
    ) -> io.BufferedReader:
        type(self).opened += 1
        data = Path(path.removeprefix("flaky://")).read_bytes()
        return io.BufferedReader(_Flaky(data, type(self)), 1 << 16)


class _Flaky(io.RawIOBase):
    def __init__(self, data: bytes, state: type[FlakyFileSystem]) -> None:
        self._data, self._state, self._at = data, state, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._at = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at > len(self._data) // 2 and self._state.failures:
            self._state.failures -= 1
            raise self._state.error
        part = self._data[self._at : self._at + min(len(buffer), 50_000)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[FlakyFileSystem]:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(FlakyFileSystem, "failures", 0)
    monkeypatch.setattr(FlakyFileSystem, "opened", 0)
    monkeypatch.setattr(FlakyFileSystem, "error", FlakyFileSystem.error)
    return FlakyFileSystem


@pytest.mark.parametrize(
    ("compression", "ranged"),
    [("none", True), ("none", False), *((name, False) for name in MEMBERS)],
)
def test_reading_that_fails_twice_gives_every_line_once(
    tmp_path: Path, flaky: type[FlakyFileSystem], compression: str, ranged: bool
) -> None:
    data = noisy_log(20_000)
    stored = MEMBERS[compression](data) if compression in MEMBERS else data
    path = tmp_path / "a"
    path.write_bytes(stored)
    flaky.failures = 2
    file = LogFile(f"flaky://{path}", len(stored), "json", compression)
    spans = spans_of(file, [len(data) // 3]) if ranged else (Span(file),)
    chunks = list(read_chunks(Block("b", spans), 300_000))
    assert flaky.failures == 0
    assert flaky.opened == len(spans) + 2
    assert unreadable_in(chunks) == []
    assert [(offset, line) for _, offset, line in lines_in(chunks)] == expected_lines(data)


@pytest.mark.parametrize("error", [OSError("connection reset"), S3ClientError("connection reset")])
def test_reading_that_keeps_failing_is_one_entry_after_what_came(
    tmp_path: Path, flaky: type[FlakyFileSystem], error: Exception
) -> None:
    flaky.error = error  # Beam's S3 client has errors that are no OSError
    data = noisy_log(20_000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    flaky.failures = 1_000
    chunks = list(
        read_chunks(Block("b", (Span(LogFile(f"flaky://{path}", len(data), "json", "none")),)))
    )
    assert flaky.opened == READ_ATTEMPTS
    (entry,) = unreadable_in(chunks)
    assert entry.error_type == "unreadable_file"
    assert "connection reset" in entry.message
    found = [(offset, line) for _, offset, line in lines_in(chunks)]
    assert found[:-1] == expected_lines(data)[: len(found) - 1]
    assert 0.2 * len(data) < entry.position <= len(data)
    assert entry.position == found[-1][0] + len(found[-1][1])  # the first byte not read


@pytest.mark.parametrize("ranged", [False, True])
def test_a_file_that_vanished_is_one_entry_and_the_rest_is_read(
    tmp_path: Path, flaky: type[FlakyFileSystem], ranged: bool
) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes(b'{"n":1}\n{"n":2}\n')
    files, _ = list_files([str(tmp_path)])
    (tmp_path / "b.jsonl").unlink()
    spans = tuple(Span(file, 0, 16) if ranged else Span(file) for file in files)
    chunks = list(read_chunks(Block("b", spans)))
    (entry,) = unreadable_in(chunks)
    assert (entry.source, entry.error_type) == (str(tmp_path / "b.jsonl"), "unreadable_file")
    assert entry.position == 0
    assert [Path(source).name for source, _, _ in lines_in(chunks)] == [
        *["a.jsonl"] * 2,
        *["c.jsonl"] * 2,
    ]


def test_each_unreadable_part_of_a_file_has_a_position_of_its_own(
    tmp_path: Path, flaky: type[FlakyFileSystem]
) -> None:
    file = LogFile(str(tmp_path / "gone.jsonl"), 300, "json", "none")
    chunks = list(read_chunks(Block("b", spans_of(file, [100, 200]))))
    assert [entry.position for entry in unreadable_in(chunks)] == [0, 100, 200]


# --- reading ahead -------------------------------------------------------------------------------


def test_reading_ahead_keeps_order_and_raises_what_the_reader_raised() -> None:
    def chunks() -> Iterator[LogChunk]:
        for number in range(5):
            yield LogChunk("b", number)
        raise RuntimeError("the reader broke")

    seen = []
    with pytest.raises(RuntimeError, match="the reader broke"):
        for chunk in prefetched(chunks()):
            seen.append(chunk.sequence)
    assert seen == [0, 1, 2, 3, 4]


def test_reading_ahead_ends_with_its_consumer() -> None:
    produced = []

    def chunks() -> Iterator[LogChunk]:
        for number in range(10_000):
            produced.append(number)
            yield LogChunk("b", number)

    ahead = prefetched(chunks(), depth=2)
    next(ahead)
    ahead.close()  # joins the thread
    assert len(produced) < 10
