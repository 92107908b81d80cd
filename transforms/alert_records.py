"""What is compared, and the records that receivers of alerts get: ``docs/alerts.md``."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable
from typing import Any

import msgspec


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """A flag, an anomaly, or a quota that is exceeded (``rule`` is ``quota_MEASURE``).

    Attributes:
        start_ms: begin of the base window that it is about, of an anomaly of the first of them.
        end_ms: end of that window, of an anomaly of the last one so far.
        over: an anomaly that has ended. It was there, and is not withdrawn.
    """

    start_ms: int
    end_ms: int
    rule: str
    ivt_class: str
    subject_type: str
    subject: str
    count: int
    threshold: int
    evidence: list[str] = []
    over: bool = False


class Source(enum.StrEnum):
    """What a row comes from. Sources are not compared with each other."""

    FLAGS = "flags"
    QUOTAS = "quotas"
    VERDICTS = "verdicts"
    ANOMALIES = "anomalies"


class Row(msgspec.Struct, frozen=True, array_like=True):
    """All that a pane of one source says of an advertiser's window.

    Times are milliseconds since the epoch. ``version`` grows with the events that the pane saw.
    """

    advertiser_id: str
    start_ms: int
    end_ms: int
    version: int
    verdicts: list[Verdict]
    ruleset_version: str = ""
    source: Source = Source.FLAGS


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    id: str
    key: str
    version: int
    advertiser_id: str
    window_start: str
    window_end: str

    def to_json(self) -> bytes:
        """One line of JSON, without its end."""
        return msgspec.json.encode(self)


class Alert(_Record, frozen=True, kw_only=True, tag="alert"):
    """A flag was raised, an anomaly that was raised is over, or what was raised holds no more."""

    state: str
    rule: str
    ivt_class: str
    subject_type: str
    subject: str
    count: int
    threshold: int
    evidence: list[str]
    ruleset_version: str


class Suppressed(_Record, frozen=True, kw_only=True, tag="suppressed"):
    """So many flags hold that were not sent; 0 when there are none any more."""

    source: str
    count: int


class RateLimit(_Record, frozen=True, kw_only=True, tag="rate_limit"):
    """Events of a type from a subject should be throttled, or need not be any more."""

    state: str
    subject_type: str
    subject: str
    event_type: str
    until: str
    reasons: list[dict[str, Any]]


Record = Alert | Suppressed | RateLimit


def shown_time(ms: int) -> str:
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count_kinds(records: Iterable[Record]) -> dict[str, int]:
    """Records by the name of the counter that counts them."""
    names = {"raised": "alerts_sent", "ended": "alerts_ended", "withdrawn": "alerts_withdrawn"}
    counts = dict.fromkeys((*names.values(), "rate_limits_sent"), 0)
    for record in records:
        if isinstance(record, Alert):
            counts[names[record.state]] += 1
        elif isinstance(record, RateLimit):
            counts["rate_limits_sent"] += 1
    return counts
