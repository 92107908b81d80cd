"""Dead letters: any bytes come back as they were, in the same file for the same letters."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adtally.io.dead_letter_source import payload_chunk
from adtally.io.dead_letters import (
    MESSAGE_LIMIT,
    DeadLetter,
    decode_lines,
    encode_lines,
    remove_dead_letters,
    write_dead_letters,
)
from adtally.io.logs import Block

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z


def letter(payload: bytes = b"{}", **fields: object) -> DeadLetter:
    default = {
        "failed_at": START,
        "stage": "decode",
        "error_type": "invalid_json",
        "message": "no JSON",
        "source": "/logs/a.jsonl",
        "position": "17",
    }
    return DeadLetter.of(**{**default, **fields}, payload=payload)  # type: ignore[arg-type]


payloads = st.one_of(
    st.binary(max_size=50),
    st.text(max_size=50).map(lambda text: text.encode()),
    st.sampled_from(
        [b"", b"\r\n\x0b\x0c\x1c\x85", "\u2028\u2029\x85".encode(), b"\xed\xa0\x80", b"\xff\xfe"]
    ),
)


@given(
    contents=st.lists(st.tuples(payloads, st.text(max_size=20)), max_size=5),
    failed_at=st.integers(0, 4_102_444_800_000),
)
@example(contents=[(b"\xef\xbb\xbf{}", "\u2028")], failed_at=START + 1)
def test_any_bytes_come_back(contents: list[tuple[bytes, str]], failed_at: int) -> None:
    letters = [
        letter(payload, message=text, source=text, failed_at=failed_at)
        for payload, text in contents
    ]
    back = list(decode_lines(encode_lines(letters)))
    assert back == letters
    assert [one.payload_bytes() for one in back] == [payload for payload, _ in contents]


def test_text_stays_readable_and_other_bytes_are_base64() -> None:
    assert letter('{"a":"é"}'.encode()).payload == '{"a":"é"}'
    assert letter(b"\xff").payload_encoding == "base64"
    (line,) = gzip.decompress(encode_lines([letter('{"a":"é"}'.encode())])).splitlines()
    fields = json.loads(line)
    assert fields["payload"] == '{"a":"é"}'
    assert fields["failed_at"] == "2024-01-01T00:00:00Z"
    assert fields["version"] == 1


def test_a_path_that_is_no_unicode_can_be_told() -> None:
    source = b"/logs/caf\xe9.jsonl".decode("utf-8", "surrogateescape")
    (back,) = decode_lines(encode_lines([letter(source=source, message=f"{source} is broken")]))
    assert back.source == "/logs/caf\\udce9.jsonl"
    assert back.payload == "{}"


def test_the_same_letters_give_the_same_bytes() -> None:
    letters = [letter(b"%d" % n) for n in range(100)]
    assert encode_lines(letters) == encode_lines(list(letters))


def test_long_messages_are_cut() -> None:
    assert len(letter(message="x" * 10_000).message) == MESSAGE_LIMIT


def changed(**fields: object) -> bytes:
    (line,) = gzip.decompress(encode_lines([letter()])).splitlines()
    content = {**json.loads(line), **fields}
    return gzip.compress(json.dumps({k: v for k, v in content.items() if v is not None}).encode())


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1 has version 2, newer than 1; upgrade"):
        list(decode_lines(changed(version=2)))


def test_fields_added_within_a_version_are_passed_over() -> None:
    assert list(decode_lines(changed(hint="new"))) == [letter()]


@pytest.mark.parametrize(
    "data",
    [
        changed(payload=None),
        changed(failed_at="yesterday"),
        changed(version="1"),
        gzip.compress(b'{"a":1}\n', mtime=0),
        gzip.compress(b"\n", mtime=0),
        b'{"not":"gzip"}\n',
        encode_lines([letter(b"x" * 1000)])[:-20],
    ],
)
def test_what_is_no_dead_letter_is_a_clear_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="dead letter"):
        list(decode_lines(data))


def test_files_lie_under_their_date_and_are_written_again_the_same(tmp_path: Path) -> None:
    letters = [letter(b"\xff", failed_at=START - 1), letter()]
    path = write_dead_letters(letters, str(tmp_path), "block-00000")
    assert path == f"{tmp_path}/date=2023-12-31/block-00000.jsonl.gz"
    first = Path(path).read_bytes()
    assert list(decode_lines(first)) == letters
    assert write_dead_letters(letters, str(tmp_path), "block-00000") == path
    assert Path(path).read_bytes() == first


def test_files_of_blocks_are_removed_whatever_their_date(tmp_path: Path) -> None:
    for day in range(2):
        for name in ("one-00000", "one-00001", "two-00000", "one-kept-00000"):
            write_dead_letters([letter(failed_at=START + day * 86_400_000)], str(tmp_path), name)
    assert remove_dead_letters(str(tmp_path), ["one", "three"]) == 4
    left = sorted(path.name for path in tmp_path.rglob("*.gz"))
    assert left == ["one-kept-00000.jsonl.gz"] * 2 + ["two-00000.jsonl.gz"] * 2
    assert remove_dead_letters(str(tmp_path / "none"), ["one"]) == 0


def test_replay_gives_each_record_at_its_own_address_and_keeps_other_stages() -> None:
    letters = [
        letter(b'{"a":1}', position="5", source="/a"),
        letter(b"", stage="read", position=""),
        letter(b"\xff\xfe", position="900", source="/b"),
        letter(b'{"id":1}', stage="elasticsearch", position="doc-1"),
    ]
    chunk, kept = payload_chunk(Block("b", ()), letters)
    assert chunk.data == b'{"a":1}\n\xff\xfe\n'
    assert [(s.chunk_offset, s.source, s.source_offset) for s in chunk.segments] == [
        (0, "/a", 5),
        (8, "/b", 900),
    ]
    assert kept == [letters[1], letters[3]]
    assert dataclasses.asdict(kept[0])["stage"] == "read"
