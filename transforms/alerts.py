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
    "givt_impression_rate_user": "impression",
    "givt_regular_interval": "click",
    **{f"quota_{measure}": event_type for measure, event_type in QUOTA_MEASURES.items()},
}
"""Rules whose subject can be throttled, with the type of events to throttle. A second click is no
attack, and where users are not named it would throttle an address, with all who are behind it."""


@dataclass(frozen=True)
class AlertSpec:
    """What is told.

    Attributes:
        most: flags of an advertiser and base window that are raised at most, raised again too; as
            many again by rules that look back, and as many anomalies.
            Each may be withdrawn, limit its subject and free it, so a receiver gets at most four
            times as many records, and those that count what was suppressed.
        hold_ms: a subject is limited until so long after the base window's end. Long enough that
            the next window of an attack, and its first pane, come before.
        quotas: of events per advertiser and base window.
        from_ms: what begins before is not raised, as it was not read from its first event on.
        look_back_from_ms: the same for what rules find that look back, and anomalies.
    """

    most: int = ALERTS
    hold_ms: int = HOLD_SECONDS * 1000
    quotas: Quotas = Quotas()
    from_ms: int = 0
    look_back_from_ms: int = 0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"{self.most} alerts per window would tell nothing; give 1 or more.")
        if self.hold_ms < 0:
            raise ValueError(
                f"a rate limit of {self.hold_ms} ms after the window would be over before it; give "
                f"0 or more."
            )

    def begin_ms(self, source: Source) -> int:
        """From where on what is found is told."""
        looks_back = source in (Source.VERDICTS, Source.ANOMALIES)
        return self.look_back_from_ms if looks_back else self.from_ms


class Told(msgspec.Struct, array_like=True):
    """What was told of one thing: how many times it began, and whether it holds.

    ``verdict`` is how it was told; ``over`` that its end was.
    """

    times: int
    holds: bool
    verdict: Verdict


class Memory(msgspec.Struct, array_like=True):
    """What receivers know of an advertiser's window, or of its base windows in an hour.

    ``raised`` is how many flags were raised of each base window, at most ``AlertSpec.most``.
    """

    version: int = -1
    raised: dict[int, int] = {}
    flags: dict[str, Told] = {}
    limits: dict[str, Told] = {}
    suppressed_told: int = 0
    suppressed_times: int = 0
    suppressed_most: int = 0


def compare(memory: Memory, row: Row, spec: AlertSpec) -> list[Record]:
    """What is new in a pane, in the order in which it should be told; ``memory`` then knows it.

    A pane that saw no more events than one before changes nothing: runners hand panes over out of
    order. What was raised is always withdrawn when it holds no more. Of many new flags those that
    can be throttled are raised first, and of these the ones furthest above their thresholds.
    """
    if row.version <= memory.version:
        return []
    memory.version = row.version
    begin_ms = spec.begin_ms(row.source)
    keyed = {_key(row, verdict): verdict for verdict in row.verdicts}
    now = {
        key: verdict
        for key, verdict in keyed.items()
        if verdict.start_ms >= begin_ms or key in memory.flags
    }
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
        verdict = now[key] if told.holds else told.verdict
        known = (told.verdict.over, told.verdict.end_ms)
        if verdict.over and known != (True, verdict.end_ms):
            told.verdict = verdict
            yield _alert(row, key, told.times, "ended", verdict)


def _raised(
    memory: Memory, now: Mapping[str, Verdict], row: Row, spec: AlertSpec
) -> Iterator[Alert]:
    """What was not told, or withdrawn, or has gone on after its end.

    What is over when it is first seen is told once, as ended: two records of a key and version
    would contradict each other.
    """
    new = [key for key, verdict in now.items() if _is_new(memory.flags.get(key), verdict)]
    for key in sorted(new, key=lambda key: (*_importance(now[key]), key)):
        raised = memory.raised.get(now[key].start_ms, 0)
        if raised >= spec.most and row.source is not Source.QUOTAS:
            continue
        times = memory.flags[key].times + 1 if key in memory.flags else 1
        memory.flags[key] = Told(times, True, now[key])
        memory.raised[now[key].start_ms] = raised + 1
        yield _alert(row, key, times, "ended" if now[key].over else "raised", now[key])


def _importance(verdict: Verdict) -> tuple[bool, float]:
    """Low for what a receiver can do most about; counts of different rules do not compare."""
    return verdict.rule not in THROTTLED, -verdict.count / max(verdict.threshold, 1)


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
