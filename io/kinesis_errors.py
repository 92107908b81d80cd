"""What goes wrong between a reader and Kinesis: what passes by itself, and what ends it."""

from __future__ import annotations

import random
from typing import Final

import botocore.exceptions
import botocore.parsers

from adtally.io.endpoints import refusal

FIRST_BACKOFF_SECONDS: Final = 0.5
LAST_BACKOFF_SECONDS: Final = 30.0

_BUSY: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "KMSThrottlingException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
    }
)
_EXPIRED_CREDENTIALS: Final = frozenset({"ExpiredTokenException", "ExpiredToken", "RequestExpired"})
_SKEWED: Final = ("Signature expired", "Signature not yet current")
"""What AWS says of a request whose clock is more than some minutes off; clocks are set right."""

_CHANGING: Final = "ResourceInUseException"
"""The stream is being made, or its shards are being changed."""


class KinesisSourceError(RuntimeError):
    """Reading cannot go on without a person; the message says what to do."""


class StreamMissing(KinesisSourceError):
    """There is no such stream."""


class StreamRecreated(KinesisSourceError):
    """A stream of the same name, but not the one that was being read."""


class DataLoss(KinesisSourceError):
    """Records left the stream before they were read."""


class ShardGone(Exception):
    """The stream does not have the shard, or the position in it, any more."""


class IteratorExpired(Exception):
    """A new iterator is needed; nothing is lost."""


class NotYet(Exception):
    """The start time is still ahead for the stream's clock; ours may be fast."""


def is_passing(error: BaseException) -> bool:
    """Whether an error goes away by itself: throttled, overloaded, unreachable, cut off, or signed
    by a clock that is wrong."""
    if isinstance(error, botocore.exceptions.ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = error.response.get("Error", {}).get("Message", "")
        passing = code in _BUSY or code in _EXPIRED_CREDENTIALS or code == _CHANGING
        skewed = code == "InvalidSignatureException" and message.startswith(_SKEWED)
        return passing or skewed or status == 429 or status >= 500
    if refusal(error, ""):
        return False
    return isinstance(
        error,
        NotYet
        | botocore.exceptions.ConnectionError
        | botocore.exceptions.HTTPClientError
        | botocore.exceptions.CredentialRetrievalError
        | botocore.parsers.ResponseParserError
        | OSError,
    )


def is_throttling(error: BaseException) -> bool:
    """Whether we were asked to be slower."""
    return (
        isinstance(error, botocore.exceptions.ClientError)
        and error.response.get("Error", {}).get("Code", "") in _BUSY
    )


def backoff_seconds(attempt: int) -> float:
    """Full jitter (AWS, "Exponential Backoff And Jitter"), for the ``attempt``-th from 1."""
    limit = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(attempt, 10))
    return random.uniform(limit / 2, limit)
