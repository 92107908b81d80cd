"""Records that the Kinesis Producer Library (KPL) has packed several to one.

The protocol buffer is that of PyPI ``aws-kinesis-agg``. Its own iterator over records is not used:
it gives every record the first explicit hash key of its aggregate when the record has none, and
knows nothing of shards.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import Final

import aws_kinesis_agg
from google.protobuf.message import DecodeError

_path = list(sys.path)
# Its generated modules import each other by bare names: this import puts its folder on the path.
from aws_kinesis_agg.deaggregator import messages_pb2  # noqa: E402

sys.path[:] = _path

MAX_HASH: Final = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One record as a producer gave it; ``subsequence`` is its index within an aggregate."""

    data: bytes
    partition_key: str
    subsequence: int


def hash_key(partition_key: str) -> int:
    """Where Kinesis puts a partition key: its MD5 as a number of 128 bits."""
    return int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest())


def is_aggregate(data: bytes) -> bool:
    """Whether bytes begin as an aggregate does and their MD5 is right."""
    if not data.startswith(aws_kinesis_agg.MAGIC):
        return False
    size = aws_kinesis_agg.DIGEST_SIZE
    body, digest = data[len(aws_kinesis_agg.MAGIC) : -size], data[-size:]
    return hashlib.md5(body, usedforsecurity=False).digest() == digest


def deaggregate(data: bytes, first_hash: int, last_hash: int) -> list[UserRecord] | None:
    """The records of an aggregate, without those of other shards; None for any other bytes.

    A look-alike (right first bytes, wrong MD5, no valid protocol buffer, or one that names keys
    which cannot be) is no aggregate and stays one record, as the format asks. After a reshard a
    KPL that does not know of it yet sends records to a shard that is not theirs; it notices, and
    sends those again, so the first copy is not to be used (KCL does the same).

    Args:
        data: of a Kinesis record.
        first_hash: of the shard's range of hash keys.
        last_hash: of the range, inclusive.
    """
    if not is_aggregate(data):
        return None
    message = messages_pb2.AggregatedRecord()
    try:
        message.ParseFromString(data[len(aws_kinesis_agg.MAGIC) : -aws_kinesis_agg.DIGEST_SIZE])
        if not message.IsInitialized():
            return None
        records = []
        for index, record in enumerate(message.records):
            key = message.partition_key_table[record.partition_key_index]
            if not isinstance(key, str):  # protobuf gives bytes where it is no UTF-8
                return None
            if record.HasField("explicit_hash_key_index"):
                place = int(message.explicit_hash_key_table[record.explicit_hash_key_index])
            else:
                place = hash_key(key)
            if not 0 <= place <= MAX_HASH:
                return None
            if first_hash <= place <= last_hash:
                records.append(UserRecord(record.data, key, index))
    except (DecodeError, IndexError, TypeError, ValueError):  # TypeError: an index of 64 bits
        return None
    return records
