"""Kinesis as the source sees it: few calls, every failure sorted into what to do about it."""

from __future__ import annotations

import datetime
import email.utils
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import boto3
import botocore.config
import botocore.exceptions
import botocore.parsers

from adtally.io.endpoints import AWS_AUTHORITY, check_url, is_plain, quiet_aws, refusal, warn_once
from adtally.io.kinesis_errors import (
    IteratorExpired,
    KinesisSourceError,
    NotYet,
    ShardGone,
    StreamMissing,
    is_passing,
)
from adtally.io.kinesis_shards import TRIM_HORIZON, Position, Shard
from adtally.io.kpl import UserRecord, deaggregate

RECORDS_A_CALL: Final = 10_000
"""The most that GetRecords gives; with 10 MB it gives fewer."""

CALL_SECONDS: Final = 0.2
"""Kinesis allows 5 GetRecords a second and shard, shared by all who read it."""

SHARD_BYTES_A_SECOND: Final = 2 << 20
"""What Kinesis gives a second and shard; after more it refuses calls for as long as that takes."""

ITERATOR_SECONDS: Final = 270.0
"""An iterator lives 300 s; one this old is not tried any more."""

_LOG = logging.getLogger("adtally.kinesis")

_ANSWERS: Final = {
    "describe_stream_summary": "StreamDescriptionSummary",
    "get_records": "Records",
    "get_shard_iterator": "ShardIterator",
    "list_shards": "Shards",
}
"""What an answer has: botocore takes one whose body was lost for an answer with nothing in it."""


@dataclass(frozen=True)
class KinesisConfig:
    """How to reach a stream. Holds no secret: credentials come from boto3's refreshing chain.

    Attributes:
        stream: name, or ARN.
        region: such as ``eu-central-1``; empty for the environment's.
        endpoint_url: of a VPC endpoint or an emulator; empty for AWS itself.
        call_seconds: least time between two calls for one shard.
        shard_bytes_a_second: read no faster than this from one shard.

    Raises:
        ValueError: the endpoint is no URL, or holds a password.
    """

    stream: str
    region: str = ""
    endpoint_url: str = ""
    call_seconds: float = CALL_SECONDS
    shard_bytes_a_second: int = SHARD_BYTES_A_SECOND

    def __post_init__(self) -> None:
        if self.endpoint_url:
            check_url("--kinesis-endpoint", self.endpoint_url)

    @property
    def name(self) -> str:
        """The stream's name, also of an ARN."""
        return self.stream.rsplit("/", 1)[-1]

    @property
    def target(self) -> dict[str, str]:
        """The stream as an argument of every call."""
        key = "StreamARN" if self.stream.startswith("arn:") else "StreamName"
        return {key: self.stream}


def connect(config: KinesisConfig) -> Any:
    """A boto3 client. It tries nothing again by itself: the source counts and waits."""
    if is_plain(config.endpoint_url):
        warn_once(
            _LOG,
            f"{config.endpoint_url} is not encrypted: events, and the token of temporary "
            f"credentials, can be read on the way; write https://",
        )
    quiet_aws()
    session = boto3.session.Session()
    return session.client(
        "kinesis",
        region_name=config.region or None,
        endpoint_url=config.endpoint_url or None,
        config=botocore.config.Config(
            connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}
        ),
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A Kinesis record; ``users`` has the records inside of a KPL aggregate, None for any other."""

    sequence: str
    arrived_ms: int
    partition_key: str
    data: bytes
    users: list[UserRecord] | None = None


@dataclass(frozen=True)
class Polled:
    """What one GetRecords gave.

    Attributes:
        records: in order.
        next_iterator: None at the end of the shard.
        behind_ms: how far the last record is from the tip of the shard.
        asked_ms: the server's clock when it answered, or ours if that is earlier.
        bytes: of all data.
    """

    records: list[Record]
    next_iterator: str | None
    behind_ms: int
    asked_ms: int
    bytes: int


@dataclass
class Kinesis:
    """Calls for one stream; raises the errors above, lets those of :func:`is_passing` through."""

    config: KinesisConfig
    client: Any
    clock: Callable[[], float] = field(default=time.time)
    _told_ms: int | None = field(default=None, init=False)

    def now_ms(self) -> int:
        """Our clock, or the server's at its last answer if that is earlier."""
        ours = round(self.clock() * 1000)
        return ours if self._told_ms is None else min(ours, self._told_ms)

    def created_ms(self) -> int:
        """When the stream was made, which tells it from another of the same name."""
        return _ms(self._summary()["StreamCreationTimestamp"])

    def retention_ms(self) -> int:
        """How long the stream keeps records."""
        return int(self._summary()["RetentionPeriodHours"]) * 3_600_000

    def _summary(self) -> Any:
        answer = self._call("describe_stream_summary", **self.config.target)
        return answer["StreamDescriptionSummary"]

    def list_shards(self) -> dict[str, Shard]:
        """All shards, open and closed."""
        found: dict[str, Shard] = {}
        page: dict[str, Any] = dict(self.config.target)
        while True:
            answer = self._call("list_shards", **page)
            for item in answer["Shards"]:
                shard = _shard(item)
                found[shard.id] = shard
            if not answer.get("NextToken"):
                return found
            page = {"NextToken": answer["NextToken"]}

    def iterator(self, shard: str, position: Position) -> str:
        """An iterator from a position on.

        Raises:
            ShardGone: the stream does not have that place any more.
            NotYet: it will have it.
        """
        place: dict[str, Any]
        if position.sequence:
            place = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": position.sequence,
            }
        elif position.start_ms == TRIM_HORIZON:
            place = {"ShardIteratorType": "TRIM_HORIZON"}
        else:
            at = datetime.datetime.fromtimestamp(position.start_ms / 1000, datetime.UTC)
            place = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": at}
        answer = self._call("get_shard_iterator", **self.config.target, ShardId=shard, **place)
        return str(answer["ShardIterator"])

    def has(self, shard: str, sequence: str) -> bool:
        """Whether the stream still has a record, and so all after it.

        Raises:
            ShardGone: it does not even have the shard.
        """
        answer = self._call(
            "get_shard_iterator",
            **self.config.target,
            ShardId=shard,
            ShardIteratorType="AT_SEQUENCE_NUMBER",
            StartingSequenceNumber=sequence,
        )
        found = self._call("get_records", ShardIterator=answer["ShardIterator"], Limit=1)
        return [item["SequenceNumber"] for item in found["Records"]] == [sequence]

    def poll(self, iterator: str, position: Position) -> Polled:
        """One GetRecords.

        Raises:
            IteratorExpired: ask for a new one.
            ShardGone: the stream does not have the shard any more.
        """
        answer = self._call("get_records", ShardIterator=iterator, Limit=RECORDS_A_CALL)
        first, last = int(position.first_hash), int(position.last_hash)
        records = [
            Record(
                item["SequenceNumber"],
                _ms(item["ApproximateArrivalTimestamp"]),
                item["PartitionKey"],
                item["Data"],
                deaggregate(item["Data"], first, last),
            )
            for item in answer["Records"]
        ]
        return Polled(
            records,
            answer.get("NextShardIterator"),
            int(answer.get("MillisBehindLatest") or 0),
            self.now_ms(),
            sum(len(record.data) for record in records),
        )

    def _note_time(self, answer: dict[str, Any]) -> None:
        """A worker's clock may be wrong, and neither the watermark nor what is taken for lost
        must follow it into the future."""
        told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        self._told_ms = (
            round(email.utils.parsedate_to_datetime(told).timestamp() * 1000) if told else None
        )

    def _call(self, operation: str, **arguments: Any) -> Any:
        try:
            answer = getattr(self.client, operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            raise self._sorted(error, operation, arguments) from error
        except botocore.exceptions.NoCredentialsError as error:
            raise KinesisSourceError(
                f"no AWS credentials to read {self.config.stream} with; set them as boto3 "
                f"expects (environment, profile, or the role of the machine)."
            ) from error
        except botocore.exceptions.SSLError as error:
            why = refusal(error, AWS_AUTHORITY)
            if not why:
                raise
            raise KinesisSourceError(
                f"{self.config.stream} at {self.config.endpoint_url or 'AWS'} is not read: {why}"
            ) from error
        if _ANSWERS[operation] not in answer:
            raise botocore.parsers.ResponseParserError(
                f"{operation} was answered without {_ANSWERS[operation]}"
            )
        self._note_time(answer)
        return answer

    def _sorted(self, error: Any, operation: str, arguments: dict[str, Any]) -> Exception:
        code = error.response.get("Error", {}).get("Code", "")
        stream = self.config.stream
        if code == "ExpiredIteratorException":
            return IteratorExpired(str(error))
        if code == "InvalidArgumentException" and "Timestamp" in arguments:
            return NotYet(str(error))
        in_shard = operation in ("get_shard_iterator", "get_records")
        if code in ("ResourceNotFoundException", "InvalidArgumentException") and in_shard:
            return ShardGone(str(error))
        if code == "ResourceNotFoundException":
            return StreamMissing(
                f"there is no stream {stream} at {self.config.endpoint_url or 'AWS'}"
                f"{f' in {self.config.region}' if self.config.region else ''}; nothing can be "
                f"read. Correct --source, the region, or create the stream."
            )
        if is_passing(error):
            return error
        return KinesisSourceError(
            f"{operation} on {stream} was refused ({code}: {error}); nothing more can be read. "
            f"Reading needs kinesis:DescribeStreamSummary, ListShards, GetShardIterator and "
            f"GetRecords."
        )


def _shard(item: dict[str, Any]) -> Shard:
    return Shard(
        id=item["ShardId"],
        parent=item.get("ParentShardId") or "",
        adjacent_parent=item.get("AdjacentParentShardId") or "",
        first_hash=item["HashKeyRange"]["StartingHashKey"],
        last_hash=item["HashKeyRange"]["EndingHashKey"],
        closed=bool(item["SequenceNumberRange"].get("EndingSequenceNumber")),
    )


def _ms(at: datetime.datetime) -> int:
    return round(at.timestamp() * 1000)
