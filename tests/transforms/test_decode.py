"""Decoding: every record gives all of its events or one dead letter, whoever its neighbours."""

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
import xxhash
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.io.arrow import tag
from adtally.io.read_logs import LogChunk, Segment, UnreadableFile
from adtally.transforms.decode import Decoded, decode
from adtally.transforms.decode_checks import MONEY_LIMIT_MICROS, Plausible
from adtally.transforms.decode_events import DEAD_LETTERS, EVENTS, DecodeEvents
from adtally.transforms.mapping import Mapping, identity_mapping, load_mapping, parse_mapping

NOW = 1_709_208_000_000  # 2024-02-29T12:00:00Z
DAY = 86_400_000
IDENTITY = identity_mapping()
SHIPPED = load_mapping(Path(__file__).parents[2] / "pipelines/mappings/talkingdata.toml")


def record(**fields: Any) -> dict[str, Any]:
    base = {
        "event_id": "e1",
        "event_type": "click",
        "occurred_at": "2024-02-29T11:00:00Z",
        "advertiser_id": "acme",
    }
    return {k: v for k, v in {**base, **fields}.items() if v is not None}


def chunk_of(*lines: bytes, source: str = "a.jsonl", offset: int = 0, block: str = "b") -> LogChunk:
    data = b"".join(line + b"\n" for line in lines)
    return LogChunk(block, 0, data, [Segment(0, source, offset)])


def run(*records: Any, mapping: Mapping = IDENTITY, **options: Any) -> Decoded:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    return decode(chunk_of(*lines), mapping, now_ms=NOW, **options)


def mapped(text: str) -> Mapping:
    return parse_mapping(
        '[fields]\nadvertiser_id = "advertiser_id"\nevent_type = "event_type"\n'
        'occurred_at = "occurred_at"\n' + text
    )


BAD = {
    b"{": "invalid_json",
    b'{"a":1}{"b":2}': "invalid_json",
    b"[1]": "not_an_object",
    b'{"a":"\xff"}': "invalid_utf8",
}
FAULTS = {
    "invalid_timestamp": [{"occurred_at": "yesterday"}, {"received_at": "2024-02-30T00:00:00Z"}],
    "invalid_money": [
        {"cost_micros": "0.5", "currency": "EUR"},
        {"revenue_micros": "a", "currency": "EUR"},
        {"cost_micros": MONEY_LIMIT_MICROS + 1, "currency": "EUR"},
        {"cost_micros": -MONEY_LIMIT_MICROS - 1, "currency": "EUR"},
    ],
    "missing_field": [
        {"event_type": None},
        {"occurred_at": None},
        {"advertiser_id": None},
        {"advertiser_id": ""},
    ],
    "unknown_event_type": [{"event_type": "view"}, {"event_type": "Click"}],
    "invalid_currency": [{"currency": "eur"}, {"currency": "EURO"}, {"currency": "EUR\n"}],
    "missing_currency": [{"cost_micros": 1}, {"revenue_micros": -1}],
    "implausible_time": [
        {"occurred_at": "1999-12-31T23:59:59.999Z"},
        {"occurred_at": "2024-03-01T12:00:00.001Z"},
        {"occurred_at": "2024-02-29T11:00:00Z", "received_at": "2024-02-28T10:59:59.999Z"},
        {"occurred_at": "2024-03-09T00:00:00Z", "received_at": "2024-03-09T00:00:00Z"},
        {"occurred_at": "0001-01-01T00:00:00Z"},
        {"occurred_at": "9999-12-31T23:59:59Z"},
    ],
}


@pytest.mark.parametrize(
    ("error_type", "fault"), [(key, fault) for key, faults in FAULTS.items() for fault in faults]
)
def test_a_bad_record_is_one_dead_letter(error_type: str, fault: dict[str, Any]) -> None:
    line = json.dumps(record(**fault)).encode()
    decoded = decode(chunk_of(line, offset=70), IDENTITY, now_ms=NOW)
    assert decoded.events.num_rows == 0
    assert decoded.events.schema.equals(schema.EVENT_SCHEMA)
    assert decoded.records == 1
    (letter,) = decoded.dead_letters
    assert letter.error_type == error_type
    assert letter.stage == "decode"
    assert letter.failed_at == NOW
    assert (letter.source, letter.position) == ("a.jsonl", "70")
    assert letter.payload_bytes() == line
    assert any(name in letter.message for name in [*fault, "currency"])


@pytest.mark.parametrize(("line", "error_type"), BAD.items())
def test_a_line_that_is_no_record(line: bytes, error_type: str) -> None:
    decoded = run(line)
    assert [letter.error_type for letter in decoded.dead_letters] == [error_type]
    assert decoded.dead_letters[0].payload_bytes() == line


def test_limits_are_inclusive() -> None:
    decoded = run(
        record(occurred_at="2000-01-01T00:00:00Z"),
        record(occurred_at="2024-03-01T12:00:00.000Z"),
        record(received_at="2024-03-01T12:00:00Z"),
        record(cost_micros=MONEY_LIMIT_MICROS, currency="EUR"),
        record(cost_micros=-MONEY_LIMIT_MICROS, currency="EUR"),
        record(cost_micros=0),
    )
    assert decoded.dead_letters == []
    assert decoded.events.num_rows == 6
    strict = run(record(), plausible=Plausible(earliest_ms=NOW))
    assert [letter.error_type for letter in strict.dead_letters] == ["implausible_time"]


def test_every_field_arrives_and_unknown_ones_are_kept() -> None:
    full = {name: f"value of {name}" for name in schema.DECODED_FIELDS}
    full |= record(
        occurred_at="2024-02-29T11:00:00.123Z",
        received_at="2024-02-29T11:00:01Z",
        currency="EUR",
        cost_micros=12,
        revenue_micros="-34",
    )
    decoded = run({**full, "color": "red", "nested": {"a": [1, 2]}, "extra": 1})
    (row,) = decoded.events.to_pylist()
    assert row["occurred_at"].isoformat() == "2024-02-29T11:00:00.123000+00:00"
    assert (row["cost_micros"], row["revenue_micros"]) == (12, -34)
    for name in set(schema.DECODED_FIELDS) - {
        "occurred_at",
        "received_at",
        "cost_micros",
        "revenue_micros",
    }:
        assert row[name] == full[name]
    assert json.loads(row["extra"]) == {"color": "red", "nested": {"a": [1, 2]}, "extra": 1}
    assert run(record()).events["extra"].to_pylist() == [None]


def test_the_content_hash_is_that_of_the_line() -> None:
    line = json.dumps(record()).encode()
    expected = xxhash.xxh3_64_intdigest(line)
    (found,) = run(line + b"\r").events["content_hash"].to_pylist()
    assert found % (1 << 64) == expected


def test_rename_default_constant_and_path() -> None:
    mapping = mapped(
        'country = { from = "land", default = "DE" }\npublisher_id = { constant = "p" }\n'
        'user_id = { from = "user", path = "$.ids[0].v" }\ncurrency = "cur"\n'
        'cost_micros = { from = "price", path = "$.amount", micros_per_unit = 1000000 }\n'
    )
    price = '{"amount": 12345.678901, "note": "1234567890123456789 \\" {"}'
    line = json.dumps(record(land="FR", user={"ids": [{"v": "u1"}]}, cur="EUR"))
    with_price = (line[:-1] + f', "price": {price}}}').encode()
    decoded = run(with_price, record(land="", user="no object"), mapping=mapping)
    assert decoded.dead_letters == []
    first, second = decoded.events.to_pylist()
    assert (first["country"], first["user_id"], first["publisher_id"]) == ("FR", "u1", "p")
    assert first["cost_micros"] == 12_345_678_901
    assert (second["country"], second["user_id"], second["cost_micros"]) == ("DE", None, None)


@pytest.mark.parametrize(
    "number", ["9007199254740993", "12345678901234567890123", "0.30000000000000000001"]
)
def test_numbers_inside_objects_are_not_rounded(number: str) -> None:
    mapping = mapped('user_id = { from = "user", path = "$.id" }\n')
    line = json.dumps(record())[:-1] + f', "user": {{"s": "\\"", "id": {number}}}}}'
    assert run(line.encode(), mapping=mapping).events["user_id"].to_pylist() == [number]


def test_a_record_gives_all_of_its_events_or_none() -> None:
    mapping = parse_mapping(
        '[fields]\nadvertiser_id = "a"\noccurred_at = "t"\n'
        '[[events]]\nfields.event_type = { constant = "click" }\n'
        '[[events]]\nwhen = { field = "won", equals = ["1", "true"] }\n'
        'fields.event_type = { constant = "conversion" }\n'
        'fields.currency = "cur"\nfields.revenue_micros = "rev"\n'
    )
    base = {"a": "x", "t": "2024-02-29T11:00:00Z"}
    records = [
        base,
        {**base, "won": 1, "rev": 5, "cur": "EUR"},
        {**base, "won": True},
        {**base, "won": 1, "rev": 5},  # the conversion fails, so the click does
        {**base, "won": 0, "rev": 5},
    ]
    starts = [0]
    for item in records:
        starts.append(starts[-1] + len(json.dumps(item)) + 1)
    decoded = run(*records, mapping=mapping)
    rows = decoded.events.to_pylist()
    assert sorted((row["position"], row["record_index"], row["event_type"]) for row in rows) == [
        (starts[0], 0, "click"),
        (starts[1], 0, "click"),
        (starts[1], 1, "conversion"),
        (starts[2], 0, "click"),
        (starts[2], 1, "conversion"),
        (starts[4], 0, "click"),
    ]
    (letter,) = decoded.dead_letters
    assert (letter.error_type, letter.position) == ("missing_currency", str(starts[3]))
    assert decoded.records == 5
    assert len({row["event_id"] for row in rows}) == 6


def test_a_record_that_no_rule_takes_is_a_dead_letter() -> None:
    mapping = mapped('[[events]]\nwhen = { field = "kind", equals = "ad" }\n')
    decoded = run(record(kind="ad"), record(kind="heartbeat"), record(), mapping=mapping)
    assert decoded.events.num_rows == 1
    assert [letter.error_type for letter in decoded.dead_letters] == ["no_event_rule"] * 2
    assert "kind" in decoded.dead_letters[0].message


def test_the_shipped_mapping_on_records_as_they_come() -> None:
    lines = [
        b'{"ip":"134615","app":12,"device":1,"os":9,"channel":178,'
        b'"click_time":"2017-11-07 10:00:00","is_attributed":0}',
        b'{"ip":"4680","app":2,"device":1,"os":19,"channel":122,'
        b'"click_time":"2017-11-07 10:00:01","is_attributed":1}',
        b'{"ip":"4680","app":2,"device":1,"os":19,"channel":122,'
        b'"click_time":"2017-11-07 25:00:01","is_attributed":1}',
    ]
    decoded = run(*lines, mapping=SHIPPED)
    rows = sorted(decoded.events.to_pylist(), key=lambda r: (r["position"], r["record_index"]))
    assert [(r["advertiser_id"], r["publisher_id"], r["ip"], r["event_type"]) for r in rows] == [
        ("12", "178", "134615", "click"),
        ("2", "122", "4680", "click"),
        ("2", "122", "4680", "conversion"),
    ]
    assert rows[2]["occurred_at"].isoformat() == "2017-11-07T10:00:01+00:00"
    assert json.loads(rows[0]["extra"]) == {"device": 1, "os": 9}
    assert [letter.error_type for letter in decoded.dead_letters] == ["invalid_timestamp"]


def test_a_derived_id_hangs_on_the_place_alone() -> None:
    line = json.dumps(record(event_id=None)).encode()
    ids = run(line, line, record(event_id="")).events["event_id"].to_pylist()
    assert len(set(ids)) == 3
    later = decode(chunk_of(line, offset=len(line) + 1), IDENTITY, now_ms=NOW + 5)
    assert later.events["event_id"].to_pylist() == [ids[1]]
    place = f"a.jsonl@{len(line) + 1}#0".encode()
    assert ids[1] == f"{xxhash.xxh3_128_intdigest(place):032x}"
    other = decode(chunk_of(line, source="b.jsonl"), IDENTITY, now_ms=NOW)
    assert other.events["event_id"].to_pylist()[0] not in ids
    assert run(record(event_id="mine")).events["event_id"].to_pylist() == ["mine"]


def test_chunks_without_records() -> None:
    for data, segments in ((b"", []), (b"\n  \r\n", [Segment(0, "a", 0)])):
        decoded = decode(LogChunk("b", 0, data, list(segments)), IDENTITY, now_ms=NOW)
        assert (decoded.records, decoded.dead_letters, decoded.events.num_rows) == (0, [], 0)
        assert decoded.events.schema.equals(schema.EVENT_SCHEMA)
        assert (tag(decoded.events, "block"), tag(decoded.events, "sequence")) == ("b", "0")
    decoded = decode(LogChunk("b", 0, b"", []), SHIPPED, now_ms=NOW)
    assert decoded.events.num_rows == 0
    decoded = run(*BAD)
    assert (decoded.records, len(decoded.dead_letters)) == (len(BAD), len(BAD))


def test_a_message_repeats_only_the_beginning_of_a_long_value() -> None:
    (letter,) = run(record(occurred_at="x" * 100_000)).dead_letters
    assert len(letter.message) < 500
    assert len(letter.payload) > 100_000


GOOD_LINES = st.builds(
    lambda n, t, eid, money: json.dumps(
        record(
            event_id=eid,
            event_type=t,
            advertiser_id=f"a{n}",
            cost_micros=money,
            currency="EUR",
            unknown=n,
        )
    ).encode(),
    st.integers(0, 3),
    st.sampled_from(schema.EVENT_TYPES),
    st.sampled_from(["e1", "e2", None]),
    st.sampled_from([None, 5, "7"]),
)
BAD_LINES = st.sampled_from(
    list(BAD.items())
    + [
        (json.dumps(record(**fault)).encode(), error_type)
        for error_type, faults in FAULTS.items()
        for fault in faults
    ]
)
LINES = st.lists(
    st.one_of(
        GOOD_LINES.map(lambda line: (line, "")), BAD_LINES, st.just((b"", "")), st.just((b" ", ""))
    ),
    max_size=12,
)


def chunks_of(files: list[list[bytes]], cuts: list[int]) -> list[LogChunk]:
    """Lines of several files as chunks cut at some line ends, whole lines each."""
    chunks = [LogChunk("b", 0)]
    line_number = 0
    for number, lines in enumerate(files):
        offset, fresh = 0, True
        for line in lines:
            if line_number in cuts:
                chunks.append(LogChunk("b", len(chunks)))
                fresh = True
            chunk = chunks[-1]
            if fresh:
                chunk.segments.append(Segment(len(chunk.data), f"file{number}", offset))
                fresh = False
            chunk.data += line + b"\n"
            offset += len(line) + 1
            line_number += 1
    return chunks


@settings(max_examples=60)
@given(st.lists(LINES, min_size=1, max_size=3), st.lists(st.integers(0, 30), max_size=6))
def test_the_outcome_of_a_line_depends_on_the_line_and_its_place(
    files: list[list[tuple[bytes, str]]], cuts: list[int]
) -> None:
    plain = [[line for line, _ in lines] for lines in files]
    events, letters, records = [], [], 0
    for chunk in chunks_of(plain, cuts):
        decoded = decode(chunk, IDENTITY, now_ms=NOW)
        failed = {(letter.source, int(letter.position)) for letter in decoded.dead_letters}
        rows = decoded.events.to_pylist()
        assert decoded.records == len(rows) + len(failed)
        assert not failed & {(row["source"], row["position"]) for row in rows}
        events += rows
        letters += decoded.dead_letters
        records += decoded.records
    wanted_events, wanted_letters = [], []
    for number, lines in enumerate(files):
        offset = 0
        for line, error_type in lines:
            if error_type:
                wanted_letters.append((f"file{number}", str(offset), error_type, line))
            elif line.strip():
                alone = decode(
                    chunk_of(line, source=f"file{number}", offset=offset), IDENTITY, now_ms=NOW
                )
                assert alone.dead_letters == []
                wanted_events += alone.events.to_pylist()
            offset += len(line) + 1
    assert records == len(wanted_events) + len(wanted_letters)

    def place(row: dict[str, Any]) -> tuple[str, int]:
        return row["source"], row["position"]

    assert sorted(events, key=place) == sorted(wanted_events, key=place)
    found = [(ltr.source, ltr.position, ltr.error_type, ltr.payload_bytes()) for ltr in letters]
    assert sorted(found) == sorted(wanted_letters)


def test_decode_events_in_a_pipeline() -> None:
    good, bad = json.dumps(record()).encode(), b"{"
    chunk = chunk_of(good, bad, good)
    chunk.unreadable.append(UnreadableFile("gone.gz", 7, "broken_file", "ends early"))

    def check_events(tables: list[pa.Table]) -> None:
        (table,) = tables
        assert table.schema.equals(schema.EVENT_SCHEMA)
        assert table["position"].to_pylist() == [0, len(good) + 3]
        assert tag(table, "block") == "b"

    def check_letters(batches: list[Any]) -> None:
        (batch,) = batches
        assert (batch.block, batch.sequence) == ("b", 0)
        assert [(ltr.stage, ltr.error_type, ltr.source, ltr.position) for ltr in batch.letters] == [
            ("decode", "invalid_json", "a.jsonl", str(len(good) + 1)),
            ("read", "broken_file", "gone.gz", "7"),
        ]

    pipeline = test_pipeline.TestPipeline(runner="FnApiRunner")
    decoded = pipeline | beam.Create([chunk]) | DecodeEvents(IDENTITY, NOW)
    shuffled = decoded[EVENTS] | beam.Reshuffle()  # through the coder
    assert_that(shuffled, check_events, label="events")
    assert_that(decoded[DEAD_LETTERS], check_letters, label="letters")
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["records_read"] == 3
    assert counters["records_decoded"] == 2
    assert counters["records_dead"] == 1
    assert counters["files_unreadable"] == 1
    assert counters["events"] == 2
