"""What receivers of alerts are told: a pane compared with what they were told before.

Pure functions and values; :mod:`adtally.transforms.raise_alerts` runs them. ``docs/alerts.md``
explains the records.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from adtally.transforms.rules.quotas import QUOTA_MEASURES, Quotas

ALERTS: Final = 100
HOLD_SECONDS: Final = 600

THROTTLED: Final = {
    "givt_click_rate_ip": "click",
    "givt_duplicate_click": "click",
    "givt_regular_interval": "click",
    **{f"quota_{measure}": event_type for measure, event_type in QUOTA_MEASURES.items()},
}
"""Rules whose subject can be throttled, with the type of events to throttle."""


@dataclass(frozen=True)
class AlertSpec:
    """What is told.

    Attributes:
        most: flags of an advertiser and base window that are raised at most, raised again too.
            Each may be withdrawn, limit its subject and free it, so a receiver gets at most four
            times as many records, and those that count what was suppressed.
        hold_ms: a subject is limited until so long after the window's end. Long enough that the
            next window of an attack, and its first pane, come before.
        quotas: of events per advertiser and base window.
    """

    most: int = ALERTS
    hold_ms: int = HOLD_SECONDS * 1000
    quotas: Quotas = Quotas()

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"{self.most} alerts per window would tell nothing; give 1 or more.")
        if self.hold_ms < 0:
            raise ValueError(
                f"a rate limit of {self.hold_ms} ms after the window would be over before it; give "
                f"0 or more."
            )


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """A flag, or a quota that is exceeded (``rule`` is ``quota_MEASURE``)."""

    rule: str
    ivt_class: str
    subject_type: str
    subject: str
    count: int
    threshold: int
    evidence: list[str] = []


class Row(msgspec.Struct, frozen=True, array_like=True):
    """All that a pane says of an advertiser's base window: its flags, or its exceeded quotas.

    Times are milliseconds since the epoch. ``version`` grows with the events that the pane saw.
    """

    advertiser_id: str
    start_ms: int
    end_ms: int
    version: int
    verdicts: list[Verdict]
    ruleset_version: str = ""
    quota: bool = False


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
    """A flag was raised, or one that was raised holds no more."""

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


class Told(msgspec.Struct, array_like=True):
    """What was told of one thing: how many times it began, and whether it holds."""

    times: int
    holds: bool
    verdict: Verdict


class Memory(msgspec.Struct, array_like=True):
    """What receivers know of an advertiser's window; at most ``AlertSpec.most`` flags."""

    version: int = -1
    raised: int = 0
    flags: dict[str, Told] = {}
    limits: dict[str, Told] = {}
    suppressed_told: int = 0
    suppressed_times: int = 0
    suppressed_most: int = 0


def compare(memory: Memory, row: Row, spec: AlertSpec) -> list[Record]:
    """What is new in a pane, in the order in which it should be told; ``memory`` then knows it.

    A pane that saw no more events than one before changes nothing: runners hand panes over out of
    order. What was raised is always withdrawn when it holds no more. Of many new flags those with
    the highest counts are raised first.
    """
    if row.version <= memory.version:
        return []
    memory.version = row.version
    now = {_key(row, verdict): verdict for verdict in row.verdicts}
    alerts = [*_withdrawn(memory, now, row), *_raised(memory, now, row, spec)]
    told: list[Record] = [] if row.quota else [*alerts, *_suppressed(memory, now, row)]
    return [*told, *_limits(memory, row, spec)]


def _withdrawn(memory: Memory, now: Mapping[str, Verdict], row: Row) -> Iterator[Alert]:
    for key, told in sorted(memory.flags.items()):
        if told.holds and key not in now:
            told.holds = False
            yield _alert(row, key, told.times, "withdrawn", told.verdict)


def _raised(
    memory: Memory, now: Mapping[str, Verdict], row: Row, spec: AlertSpec
) -> Iterator[Alert]:
    new = [key for key in now if not (key in memory.flags and memory.flags[key].holds)]
    room = len(new) if row.quota else max(0, spec.most - memory.raised)
    for key in sorted(new, key=lambda key: (-now[key].count, key))[:room]:
        times = memory.flags[key].times + 1 if key in memory.flags else 1
        memory.flags[key] = Told(times, True, now[key])
        memory.raised += 1
        yield _alert(row, key, times, "raised", now[key])


def _suppressed(memory: Memory, now: Mapping[str, Verdict], row: Row) -> Iterator[Suppressed]:
    """The number when it is first above 0, has doubled or halved, and when it is 0 again."""
    count = len(now) - sum(told.holds for told in memory.flags.values())
    memory.suppressed_most = max(memory.suppressed_most, count)
    before = memory.suppressed_told
    if count == before or before / 2 < count < before * 2:
        return
    memory.suppressed_told = count
    memory.suppressed_times += 1
    key = _hash(row.advertiser_id, row.start_ms, "suppressed")
    yield Suppressed(**_common(row, key, memory.suppressed_times, "count"), count=count)


def _limits(memory: Memory, row: Row, spec: AlertSpec) -> Iterator[RateLimit]:
    """Subjects are limited while one of their flags, of those that were told, holds."""
    reasons: dict[tuple[str, str, str], list[Verdict]] = {}
    for _, told in sorted(memory.flags.items()):
        if told.holds and told.verdict.rule in THROTTLED:
            verdict = told.verdict
            subject = (verdict.subject_type, verdict.subject, THROTTLED[verdict.rule])
            reasons.setdefault(subject, []).append(verdict)
    keyed = {
        _hash(row.advertiser_id, row.start_ms, "rate_limit", *subject): subject
        for subject in reasons
    }
    for key, told in sorted(memory.limits.items()):
        if told.holds and key not in keyed:
            told.holds = False
            yield _limit(row, key, told, row.start_ms, [])
    for key, subject in sorted(keyed.items()):
        verdicts = reasons[subject]
        before = memory.limits.get(key, Told(0, False, verdicts[0]))
        if not before.holds:
            told = memory.limits[key] = Told(before.times + 1, True, verdicts[0])
            yield _limit(row, key, told, row.end_ms + spec.hold_ms, verdicts)


def _alert(row: Row, key: str, times: int, state: str, verdict: Verdict) -> Alert:
    return Alert(
        **_common(row, key, times, state),
        **msgspec.structs.asdict(verdict),
        state=state,
        ruleset_version=row.ruleset_version,
    )


def _limit(row: Row, key: str, told: Told, until_ms: int, verdicts: Sequence[Verdict]) -> RateLimit:
    verdict = told.verdict
    state = "limited" if verdicts else "withdrawn"
    return RateLimit(
        **_common(row, key, told.times, state),
        state=state,
        subject_type=verdict.subject_type,
        subject=verdict.subject,
        event_type=THROTTLED[verdict.rule],
        until=_time(until_ms),
        reasons=[
            {"rule": one.rule, "count": one.count, "threshold": one.threshold} for one in verdicts
        ],
    )


def _common(row: Row, key: str, times: int, state: str) -> dict[str, Any]:
    return {
        "id": _hash(key, times, state),
        "key": key,
        "version": row.version,
        "advertiser_id": row.advertiser_id,
        "window_start": _time(row.start_ms),
        "window_end": _time(row.end_ms),
    }


def _key(row: Row, verdict: Verdict) -> str:
    """What a flag is about: it has the same key in every pane and every run."""
    subject = (verdict.subject_type, verdict.subject)
    return _hash(row.advertiser_id, row.start_ms, verdict.rule, *subject)


def _hash(*parts: Any) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts))


def _time(ms: int) -> str:
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count_kinds(records: Iterable[Record]) -> dict[str, int]:
    """Records by the name of the counter that counts them."""
    counts = dict.fromkeys(("alerts_sent", "alerts_withdrawn", "rate_limits_sent"), 0)
    for record in records:
        if isinstance(record, Alert):
            counts["alerts_sent" if record.state == "raised" else "alerts_withdrawn"] += 1
        elif isinstance(record, RateLimit):
            counts["rate_limits_sent"] += 1
    return counts
