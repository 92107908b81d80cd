"""What receivers of alerts are told: a pane compared with what they were told before.

Pure functions and values; :mod:`adtally.transforms.raise_alerts` runs them. ``docs/alerts.md``
explains the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from adtally.transforms.alert_records import (
    Alert,
    RateLimit,
    Record,
    Row,
    Source,
    Suppressed,
    Verdict,
    shown_time,
)
from adtally.transforms.rules.quotas import QUOTA_MEASURES, Quotas

ALERTS: Final = 100
HOLD_SECONDS: Final = 600

THROTTLED: Final = {
    "givt_click_rate_ip": "click",
    "givt_click_rate_user": "click",
    "givt_duplicate_click": "click",
    "givt_impression_rate_user": "impression",
    "givt_regular_interval": "click",
    **{f"quota_{measure}": event_type for measure, event_type in QUOTA_MEASURES.items()},
}
"""Rules whose subject can be throttled, with the type of events to throttle."""


@dataclass(frozen=True)
class AlertSpec:
    """What is told.

    Attributes:
        most: flags of an advertiser and window that are raised at most, raised again too; the
            window is the base window, and the history window for what is found there.
            Each may be withdrawn, limit its subject and free it, so a receiver gets at most four
            times as many records, and those that count what was suppressed.
        hold_ms: a subject is limited until so long after the base window's end. Long enough that
            the next window of an attack, and its first pane, come before.
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


class Told(msgspec.Struct, array_like=True):
    """What was told of one thing: how many times it began, and whether it holds.

    ``verdict`` is how it was told; ``over`` that its end was.
    """

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
    alerts = [
        *_withdrawn(memory, now, row),
        *_ended(memory, now, row),
        *_raised(memory, now, row, spec),
    ]
    quotas = row.source is Source.QUOTAS
    told: list[Record] = [] if quotas else [*alerts, *_suppressed(memory, now, row)]
    return [*told, *_limits(memory, row, spec)]


def _withdrawn(memory: Memory, now: Mapping[str, Verdict], row: Row) -> Iterator[Alert]:
    for key, told in sorted(memory.flags.items()):
        if told.holds and key not in now:
            told.holds = False
            yield _alert(row, key, told.times, "withdrawn", told.verdict)


def _ended(memory: Memory, now: Mapping[str, Verdict], row: Row) -> Iterator[Alert]:
    for key, told in sorted(memory.flags.items()):
        if told.holds and now[key].over and not told.verdict.over:
            told.verdict = now[key]
            yield _alert(row, key, told.times, "ended", now[key])


def _raised(
    memory: Memory, now: Mapping[str, Verdict], row: Row, spec: AlertSpec
) -> Iterator[Alert]:
    """What was not told, or withdrawn, or has gone on after its end.

    What is over when it is first seen is told once, as ended: two records of a key and version
    would contradict each other.
    """
    new = [key for key, verdict in now.items() if _is_new(memory.flags.get(key), verdict)]
    room = len(new) if row.source is Source.QUOTAS else max(0, spec.most - memory.raised)
    for key in sorted(new, key=lambda key: (-now[key].count, key))[:room]:
        times = memory.flags[key].times + 1 if key in memory.flags else 1
        memory.flags[key] = Told(times, True, now[key])
        memory.raised += 1
        yield _alert(row, key, times, "ended" if now[key].over else "raised", now[key])


def _is_new(told: Told | None, verdict: Verdict) -> bool:
    return told is None or not told.holds or (told.verdict.over and not verdict.over)


def _suppressed(memory: Memory, now: Mapping[str, Verdict], row: Row) -> Iterator[Suppressed]:
    """The number when it is first above 0, has doubled or halved, and when it is 0 again."""
    count = len(now) - sum(told.holds for told in memory.flags.values())
    memory.suppressed_most = max(memory.suppressed_most, count)
    before = memory.suppressed_told
    if count == before or before / 2 < count < before * 2:
        return
    memory.suppressed_told = count
    memory.suppressed_times += 1
    key = _hash(row.advertiser_id, row.start_ms, "suppressed", row.source)
    common = _common(row, row, key, memory.suppressed_times, "count")
    yield Suppressed(**common, source=row.source, count=count)


def _limits(memory: Memory, row: Row, spec: AlertSpec) -> Iterator[RateLimit]:
    """Subjects are limited while one of their flags of a window, of those told, holds."""
    reasons: dict[tuple[int, str, str, str], list[Verdict]] = {}
    for _, told in sorted(memory.flags.items()):
        if told.holds and told.verdict.rule in THROTTLED:
            verdict = told.verdict
            event_type = THROTTLED[verdict.rule]
            about = (verdict.start_ms, verdict.subject_type, verdict.subject, event_type)
            reasons.setdefault(about, []).append(verdict)
    keyed = {_hash(row.advertiser_id, "rate_limit", row.source, *about): about for about in reasons}
    for key, told in sorted(memory.limits.items()):
        if told.holds and key not in keyed:
            told.holds = False
            yield _limit(row, key, told, told.verdict.start_ms, [])
    for key, about in sorted(keyed.items()):
        verdicts = reasons[about]
        before = memory.limits.get(key, Told(0, False, verdicts[0]))
        if not before.holds:
            told = memory.limits[key] = Told(before.times + 1, True, verdicts[0])
            yield _limit(row, key, told, verdicts[0].end_ms + spec.hold_ms, verdicts)


def _alert(row: Row, key: str, times: int, state: str, verdict: Verdict) -> Alert:
    about = msgspec.structs.asdict(verdict)
    return Alert(
        **_common(row, verdict, key, times, state),
        **{name: about[name] for name in Alert.__struct_fields__ if name in about},
        state=state,
        ruleset_version=row.ruleset_version,
    )


def _limit(row: Row, key: str, told: Told, until_ms: int, verdicts: Sequence[Verdict]) -> RateLimit:
    verdict = told.verdict
    state = "limited" if verdicts else "withdrawn"
    return RateLimit(
        **_common(row, verdict, key, told.times, state),
        state=state,
        subject_type=verdict.subject_type,
        subject=verdict.subject,
        event_type=THROTTLED[verdict.rule],
        until=shown_time(until_ms),
        reasons=[
            {"rule": one.rule, "count": one.count, "threshold": one.threshold} for one in verdicts
        ],
    )


def _common(row: Row, window: Row | Verdict, key: str, times: int, state: str) -> dict[str, Any]:
    return {
        "id": _hash(key, times, state, row.version),
        "key": key,
        "version": row.version,
        "advertiser_id": row.advertiser_id,
        "window_start": shown_time(window.start_ms),
        "window_end": shown_time(window.end_ms),
    }


def _key(row: Row, verdict: Verdict) -> str:
    """What a flag is about: it has the same key in every pane and every run."""
    subject = (verdict.subject_type, verdict.subject)
    return _hash(row.advertiser_id, verdict.start_ms, verdict.rule, *subject)


def _hash(*parts: Any) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(parts))
