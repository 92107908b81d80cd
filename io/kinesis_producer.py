"""Records into a Kinesis stream: logs, to try a stream with those that there are, and alerts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import botocore.exceptions
import tenacity
import xxhash

from adtally.io.endpoints import AWS_AUTHORITY, refusal
from adtally.io.kinesis_client import KinesisConfig, connect
from adtally.io.kinesis_errors import is_passing

RECORDS_A_CALL: Final = 500
BYTES_A_CALL: Final = 4 << 20
"""PutRecords takes 500 records and 5 MB."""

LONGEST_RECORD: Final = 1 << 20
GIVE_UP_SECONDS: Final = 300.0


class PutError(RuntimeError):
    """Kinesis does not take a record."""


Entry = tuple[str, bytes]
"""Partition key and data of a record."""


def put_lines(
    config: KinesisConfig, lines: Iterable[bytes], records_a_second: float = 0
) -> Iterator[int]:
    """Put every line as a record of its own, keyed by its content; gives the count after each call.

    A call that gets no answer is made again, so a record can arrive twice; it counts once, by its
    event id.

    Args:
        config: the stream.
        lines: none of them blank.
        records_a_second: the pace; 0 for as fast as Kinesis takes them.

    Raises:
        PutError: a line is too long, Kinesis refuses for good, or it is away for too long.
    """
    client = connect(config)
    begun, count = time.monotonic(), 0
    most = max(1, min(RECORDS_A_CALL, round(records_a_second / 5) or RECORDS_A_CALL))
    for batch in _batches(((_key(line), line) for line in lines), most):
        if records_a_second:
            time.sleep(max(0.0, begun + count / records_a_second - time.monotonic()))
        _put(client, config, batch)
        count += len(batch)
        yield count


def put_entries(client: Any, config: KinesisConfig, entries: Iterable[Entry]) -> None:
    """Put records under keys of their own, all of them before it returns.

    Records of a key go to one shard. What was refused in part is put again after the rest, and a
    call that gets no answer is made again: a record can arrive twice, or after a later one.

    Raises:
        PutError: as :func:`put_lines`.
    """
    for batch in _batches(entries, RECORDS_A_CALL):
        _put(client, config, batch)


def _batches(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for key, line in entries:
        if len(line) > LONGEST_RECORD:
            raise PutError(f"a line of {len(line):,} bytes is longer than a record may be, 1 MiB.")
        if batch and (len(batch) == most or size + len(line) > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append((key, line))
        size += len(line)
    if batch:
        yield batch


def _put(client: Any, config: KinesisConfig, entries: list[Entry]) -> None:
    left = entries
    try:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            stop=tenacity.stop_after_delay(GIVE_UP_SECONDS),
            reraise=True,
        ):
            with attempt:
                answer = client.put_records(
                    Records=[{"Data": line, "PartitionKey": key} for key, line in left],
                    **config.target,
                )
                results = zip(left, answer["Records"], strict=True)
                left = [entry for entry, result in results if "ErrorCode" in result]
                if left:
                    raise _Left(f"{len(left)} records were refused for {GIVE_UP_SECONDS:.0f} s")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        why = refusal(error, AWS_AUTHORITY)
        raise PutError(f"{config.stream} takes no records: {why or error}") from error


class _Left(PutError):
    """Some records of a call were throttled."""


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, _Left) or is_passing(error)


def _key(line: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(line)
