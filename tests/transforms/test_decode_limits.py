"""Limits of records: each breach is a dead letter of its own kind, or counted in one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adtally.io.dead_letter_source import payload_chunk
from adtally.io.limits import KEPT_BYTES, LETTERS_AT_LEAST, LimitError, Limits
from adtally.io.logs import Block
from adtally.io.read_logs import CutLine, LogChunk, Segment
from adtally.transforms import decode_letters
from adtally.transforms.decode import Decoded, decode
from adtally.transforms.mapping import identity_mapping

NOW_MS = 1_772_323_200_000
GOOD = {
    "event_id": "e1",
    "event_type": "click",
    "occurred_at": "2026-02-28T10:00:00Z",
    "advertiser_id": "adv-1",
}


def line(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields, ensure_ascii=False).encode()


def decoded(*lines: bytes, limits: Limits | None = None, cut: int = 0) -> Decoded:
    data = b"".join(one + b"\n" for one in lines)
    chunk = LogChunk("b", 0, data, [Segment(0, "/a.jsonl", 100)])
    if cut:
        chunk.cut.append(CutLine(0, cut))
    return decode(chunk, identity_mapping(), now_ms=NOW_MS, limits=limits)


@pytest.mark.parametrize(
    ("record", "limits", "error_type"),
    [
        (line(event_id="x" * 257), Limits(), "id_too_long"),
        (line(advertiser_id="é" * 129), Limits(), "id_too_long"),
        (line(country="x" * 257), Limits(), "id_too_long"),
        (line(ip="1" * 33), Limits(id_bytes=32), "id_too_long"),
        (line(user_agent="x" * 32_769), Limits(), "text_too_long"),
        (line(url="x" * 33), Limits(text_bytes=32), "text_too_long"),
        (line(campaign_id="a\nb"), Limits(), "invalid_id"),
        (line(user_id="a\x1b[2J"), Limits(), "invalid_id"),
        (line(user_id="a\x7f"), Limits(), "invalid_id"),
        (line(user_id="a\x85"), Limits(), "invalid_id"),
        (line(user_id="a\ufffd"), Limits(), "invalid_id"),
        (line()[:-1] + rb',"user_id":"\ud800"}', Limits(), "invalid_id"),
        (line()[:-1] + rb',"user_id":"a\u0000"}', Limits(), "invalid_id"),
        (line(x=json.loads("[" * 100 + "]" * 100)), Limits(), "too_deep"),
        (line(x=[[[]]]), Limits(depth=3), "too_deep"),
        (line(**{f"k{n}": 1 for n in range(997)}), Limits(), "too_many_fields"),
        (line(x="y" * 200), Limits(record_bytes=200), "record_too_large"),
    ],
)
def test_a_breach_is_a_dead_letter_and_its_neighbours_count(
    record: bytes, limits: Limits, error_type: str
) -> None:
    found = decoded(line(), record, line(event_id="e2"), limits=limits)
    assert found.events["event_id"].to_pylist() == ["e1", "e2"]
    (letter,) = found.dead_letters
    assert (letter.error_type, letter.payload_bytes()) == (error_type, record)
    assert letter.position == str(100 + len(line()) + 1)
    assert (found.records, found.dead, found.over_limit) == (3, 1, 1)


@pytest.mark.parametrize(
    ("record", "limits"),
    [
        (line(event_id="x" * 256, user_id="é" * 128, url="x" * 32_768), Limits()),
        (line(x=json.loads("[" * 99 + "]" * 99)), Limits()),
        (line(**{f"k{n}": 1 for n in range(996)}), Limits()),
        (line(user_id="a\nb\ufffd"), Limits(id_controls=True)),
        (line(user_agent="a\nb\x1b\ufffd", x="\x00"), Limits()),
        (line(url="https:\\/\\/a\\u00e9"), Limits()),
        (line(advertiser_id="../../a/b,c%'\";--<é日\u202e"), Limits()),
    ],
)
def test_what_is_within_the_limits_counts(record: bytes, limits: Limits) -> None:
    assert decoded(record, limits=limits).events.num_rows == 1


def test_control_characters_are_found_where_a_path_takes_them_out_of_text() -> None:
    from adtally.transforms.mapping import parse_mapping

    mapping = parse_mapping(
        'fields = { event_type = "event_type", occurred_at = "occurred_at", '
        'advertiser_id = { from = "meta", path = "$.id" } }'
    )
    for inner in ('{"id": "a\\u0001"}', {"id": "a\x01"}):
        chunk = LogChunk("b", 0, line(meta=inner) + b"\n", [Segment(0, "/a", 0)])
        (letter,) = decode(chunk, mapping, now_ms=NOW_MS).dead_letters
        assert letter.error_type == "invalid_id"


def test_the_letter_of_a_cut_record_says_what_it_lacks_and_is_no_record() -> None:
    record = line(user_agent="é" * KEPT_BYTES)
    found = decoded(record, limits=Limits(record_bytes=1_000), cut=10_000_000_000)
    (letter,) = found.dead_letters
    assert (letter.stage, letter.error_type) == ("read", "record_too_large")
    assert (letter.payload_encoding, letter.position) == ("utf-8", "100")
    payload = letter.payload_bytes()
    assert KEPT_BYTES - 1 <= len(payload) <= KEPT_BYTES
    assert record.startswith(payload)
    assert "10,000,000,000 bytes are more than --max-record-bytes 1,000" in letter.message
    assert f"lacks {10_000_000_000 - len(payload):,} bytes" in letter.message
    chunk, kept = payload_chunk(Block("b", ()), [letter])
    assert (chunk.data, kept) == (b"", [letter])  # a replay leaves it where it is


@pytest.mark.parametrize("lines_a_part", [1 << 17, 700])
def test_too_many_dead_records_share_a_letter_that_counts_them(
    monkeypatch: pytest.MonkeyPatch, lines_a_part: int
) -> None:
    monkeypatch.setattr(decode_letters, "PART_LINES", lines_a_part)
    lines = [b"x", b"{}", b"\xff"] * 1_000
    lines.insert(2_500, line())
    found = decoded(*lines, limits=Limits(letters_per_mib=1))
    assert (found.records, found.dead, found.events.num_rows) == (3_001, 3_000, 1)
    assert len(found.dead_letters) == LETTERS_AT_LEAST + 1
    assert found.without_letter == 2_000
    last = found.dead_letters[-1]
    assert (last.stage, last.error_type, last.payload) == ("read", "too_many_dead_letters", "")
    assert last.message.startswith("2,000 more records of this chunk gave no event (")
    kinds = {kind: last.message.count(kind) for kind in ("invalid_json", "missing_field")}
    assert kinds == {"invalid_json": 1, "missing_field": 1}
    (position,) = found.events["position"].to_pylist()
    assert position == 100 + sum(len(one) + 1 for one in lines[:2_500])


def test_parts_of_a_chunk_keep_addresses_and_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [line(event_id=f"e{n}") for n in range(10)]
    data = b"".join(record + b"\n" for record in records)
    size = len(records[0]) + 1
    segments = [Segment(0, "/a", 7), Segment(3 * size, "/b", 0, 5), Segment(9 * size, "/c", 50)]
    chunk = LogChunk("b", 4, data, segments, cut=[CutLine(9 * size, 10**9)])
    whole = decode(chunk, identity_mapping(), now_ms=NOW_MS)
    monkeypatch.setattr(decode_letters, "PART_LINES", 4)
    assert len(list(decode_letters.parts_of(chunk))) == 3
    parts = decode(chunk, identity_mapping(), now_ms=NOW_MS)
    assert parts.events.to_pylist() == whole.events.to_pylist()
    assert parts.events.schema.metadata == whole.events.schema.metadata


def test_limits_that_cannot_be_used() -> None:
    for wrong in ({"record_bytes": 0}, {"depth": 101}, {"ratio": 0}, {"record_bytes": 1 << 31}):
        with pytest.raises(LimitError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]
