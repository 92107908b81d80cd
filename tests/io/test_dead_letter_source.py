"""Dead letters as a source: payloads with the addresses that they had, and the rest kept."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.dead_letter_source import (
    CHUNKS,
    KEPT,
    ReadDeadLetters,
    payload_chunk,
)
from adtally.io.dead_letters import DeadLetter, LetterBatch, encode_lines
from adtally.io.logs import Block, LogFile, Span
from adtally.io.read_logs import LogChunk


def letter(payload: bytes, position: str = "7", stage: str = "decode") -> DeadLetter:
    return DeadLetter.of(
        failed_at=1_704_067_200_000,
        stage=stage,
        error_type="invalid_json",
        message="m",
        source="/logs/a.jsonl",
        position=position,
        payload=payload,
    )


def block_of(*paths: Path) -> Block:
    files = [LogFile(str(path), path.stat().st_size, "dead_letters", "gzip") for path in paths]
    return Block("b", tuple(map(Span, files)))


def records(chunk: LogChunk) -> list[tuple[str, int, bytes]]:
    """(source, offset, record) of a chunk that has one segment a record."""
    starts = [segment.chunk_offset for segment in chunk.segments]
    ends = [*starts[1:], len(chunk.data)]
    return [
        (segment.source, segment.source_offset, chunk.data[segment.chunk_offset : end])
        for segment, end in zip(chunk.segments, ends[: len(starts)], strict=True)
    ]


ANY_BLOCK = Block("b", (Span(LogFile("/d.jsonl.gz", 1, "dead_letters", "gzip")),))


@given(
    payloads=st.lists(
        st.tuples(
            st.binary().map(lambda data: data.replace(b"\n", b"")),
            st.integers(0, 1 << 50),
            st.sampled_from(["decode", "read", "elasticsearch"]),
        )
    )
)
def test_each_record_has_its_old_address(payloads: list[tuple[bytes, int, str]]) -> None:
    letters = [letter(data, str(at), stage) for data, at, stage in payloads]
    chunk, kept = payload_chunk(ANY_BLOCK, letters)
    assert records(chunk) == [
        ("/logs/a.jsonl", at, data + b"\n") for data, at, stage in payloads if stage == "decode"
    ]
    assert kept == [item for item in letters if item.stage != "decode"]


@pytest.mark.parametrize("position", ["", "abc", "-1", "1.5"])
def test_a_letter_without_an_address_stays_a_dead_letter(position: str) -> None:
    odd = letter(b'{"a":1}', position)
    chunk, kept = payload_chunk(ANY_BLOCK, [letter(b"{}", "3"), odd])
    assert records(chunk) == [("/logs/a.jsonl", 3, b"{}\n")]
    assert kept == [odd]


def test_a_payload_that_someone_laid_out_on_lines_stays_one_record() -> None:
    chunk, _ = payload_chunk(ANY_BLOCK, [letter(b'{\n  "a": 1\n}\n'), letter(b"{}", "9")])
    assert chunk.data.count(b"\n") == 2
    assert [at for _, at, _ in records(chunk)] == [7, 9]
    assert b'"a": 1' in chunk.data


def test_files_of_a_block_are_read_and_the_rest_is_kept_under_another_name(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "1.jsonl.gz", tmp_path / "2.jsonl.gz"
    one.write_bytes(encode_lines([letter(b"first", "0"), letter(b"", "0", "read")]))
    two.write_bytes(encode_lines([letter(b"\xff\x00", "5")]))

    def same(expected: list[Any]) -> Callable[[list[Any]], None]:
        def check(found: list[Any]) -> None:
            assert found == expected, found

        return check

    with beam.Pipeline(FnApiRunner()) as pipeline:
        outputs = pipeline | ReadDeadLetters((block_of(one, two),))
        chunks = outputs[CHUNKS] | beam.Map(records)
        expected = [("/logs/a.jsonl", 0, b"first\n"), ("/logs/a.jsonl", 5, b"\xff\x00\n")]
        assert_that(chunks, same([expected]), label="chunks")
        batch = LetterBatch("b-kept", 0, [letter(b"", "0", "read")])
        assert_that(outputs[KEPT], same([batch]), label="kept")


@pytest.mark.parametrize(
    "content", [b"plain", encode_lines([letter(b"a")])[:-5], gzip.compress(b'{"a":1}\n', mtime=0)]
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(content)
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | ReadDeadLetters((block_of(path),))
    with pytest.raises(Exception, match=r"bad\.jsonl\.gz"):
        pipeline.run()
