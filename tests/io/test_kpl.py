"""KPL aggregates: what is inside, what only looks like one, and what belongs to another shard."""

from __future__ import annotations

import hashlib

import aws_kinesis_agg
import pytest
from aws_kinesis_agg.aggregator import AggRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io.kpl import UserRecord, deaggregate, hash_key, is_aggregate, messages_pb2

LAST = (1 << 128) - 1
HALF = 1 << 127


def aggregate(*records: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """An aggregate as the KPL's twin of PyPI makes it."""
    made = AggRecord()
    for record in records:
        explicit = record[2] if len(record) == 3 else hash_key(record[0])
        assert made.add_user_record(record[0], record[1], str(explicit))
    return bytes(made.get_contents()[2])


def wrapped(body: bytes) -> bytes:
    """Any bytes with the right beginning and the right MD5."""
    return bytes(aws_kinesis_agg.MAGIC) + body + hashlib.md5(body).digest()


def message(*records: tuple[int, int | None, bytes]) -> bytes:
    """An aggregate of ``(key index, hash key index, data)`` with one key and one hash key."""
    made = messages_pb2.AggregatedRecord()
    made.partition_key_table.append("key")
    made.explicit_hash_key_table.append(str(HALF))
    for key, explicit, data in records:
        record = made.records.add()
        record.partition_key_index, record.data = key, data
        if explicit is not None:
            record.explicit_hash_key_index = explicit
    return wrapped(made.SerializeToString())


def test_an_aggregate_gives_its_records_in_order_with_their_place() -> None:
    data = aggregate(("a", b"1"), ("b", b""), ("a", b"3"))
    expected = [UserRecord(b"1", "a", 0), UserRecord(b"", "b", 1), UserRecord(b"3", "a", 2)]
    assert deaggregate(data, 0, LAST) == expected


@settings(max_examples=100)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=9), st.binary(max_size=40)), min_size=1))
def test_whatever_went_in_comes_out(records: list[tuple[str, bytes]]) -> None:
    found = deaggregate(aggregate(*records), 0, LAST)
    assert [(one.partition_key, one.data) for one in found or []] == records
    assert [one.subsequence for one in found or []] == list(range(len(records)))


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_no_bytes_break_it(body: bytes) -> None:
    deaggregate(body, 0, LAST)
    deaggregate(wrapped(body), 0, LAST)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"event": 1}',
        bytes(aws_kinesis_agg.MAGIC),
        bytes(aws_kinesis_agg.MAGIC) + b"short",
        bytes(aws_kinesis_agg.MAGIC) + b"long enough for an MD5, which it has not",
    ],
)
def test_other_bytes_and_look_alikes_stay_one_record(data: bytes) -> None:
    assert not is_aggregate(data)
    assert deaggregate(data, 0, LAST) is None


def test_a_flipped_bit_anywhere_leaves_the_record_whole() -> None:
    data = aggregate(("a", b"1"), ("b", b"2"))
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1
        assert deaggregate(bytes(broken), 0, LAST) is None


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",  # no protocol buffer
        b"\x1a\x05\x08\x07\x1a\x01x",  # a key that the table lacks
        b"\x0a\x01k\x1a\x02\x08\x00",  # a record without the required data
        b"\x0a\x01k\x1a\x03\x1a\x01x",  # a record without the required key
        b"\x0a\x01k\x1a\x0e\x08" + b"\xff" * 9 + b"\x01\x1a\x01x",  # an index of 64 bits
        b"\x0a\x01k\x12\x03abc\x1a\x07\x08\x00\x10\x00\x1a\x01x",  # a hash key of letters
        b"\x0a\x01k\x12\x02-1\x1a\x07\x08\x00\x10\x00\x1a\x01x",  # a negative hash key
        b"\x0a\x02\xff\xfe\x1a\x05\x08\x00\x1a\x01x",  # a key that is no UTF-8
    ],
)
def test_a_bad_protocol_buffer_with_a_right_md5_stays_one_record(body: bytes) -> None:
    assert deaggregate(wrapped(body), 0, LAST) is None


def test_a_hash_key_that_no_shard_has_does_not_lose_the_record() -> None:
    body = b"\x0a\x01k\x12\x28" + b"9" * 40 + b"\x1a\x07\x08\x00\x10\x00\x1a\x01x"
    assert deaggregate(wrapped(body), 0, LAST) is None


def test_records_of_another_shards_hash_range_are_left_to_that_shard() -> None:
    keys = [f"user-{n}" for n in range(40)]
    data = aggregate(*[(key, key.encode()) for key in keys])
    low, high = deaggregate(data, 0, HALF - 1), deaggregate(data, HALF, LAST)
    assert low
    assert high
    assert all(hash_key(one.partition_key) < HALF for one in low)
    assert sorted(one.subsequence for one in low + high) == list(range(40))


def test_an_explicit_hash_key_counts_only_for_the_record_that_has_it() -> None:
    data = message((0, None, b"by key"), (0, 0, b"explicit"), (0, None, b"by key"))
    place = hash_key("key")
    assert place < HALF
    assert [one.data for one in deaggregate(data, 0, HALF - 1) or []] == [b"by key", b"by key"]
    assert [one.data for one in deaggregate(data, HALF, LAST) or []] == [b"explicit"]


def test_the_ends_of_a_hash_range_belong_to_it() -> None:
    data = message((0, 0, b"x"))
    assert deaggregate(data, HALF, HALF) == [UserRecord(b"x", "key", 0)]
    assert deaggregate(data, 0, HALF - 1) == []
    assert deaggregate(data, HALF + 1, LAST) == []


def test_an_aggregate_of_nothing_is_an_aggregate() -> None:
    assert deaggregate(wrapped(b""), 0, LAST) == []
