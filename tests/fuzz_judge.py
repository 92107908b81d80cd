"""What should become of a record in the schema's own names: an oracle made of Python's ``json``.

It shares no code with the decoder. It gives an event's values, or why there is none.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
from typing import Any, Final

from tests.fuzz_payloads import NOW_MS

UTC: Final = datetime.UTC
DAY_MS: Final = 86_400_000
IDS: Final = (
    *("event_id", "advertiser_id", "campaign_id", "ad_group_id", "creative_id", "placement_id"),
    *("publisher_id", "impression_id", "click_id", "user_id", "ip", "country"),
)
TEXTS: Final = ("user_agent", "url", "schema_version")
MONEY: Final = ("cost_micros", "revenue_micros")
KNOWN: Final = (*IDS, *TEXTS, *MONEY, "event_type", "occurred_at", "received_at", "currency")
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
    r"(?:[Zz]|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)
_MONEY: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

Judged = dict[str, Any] | str | None
"""Values of the event, the reason of the dead letter, or None for a line that is no record."""


class Unsure(Exception):
    """The oracle does not know; the caller counts how often."""


class _Number(str):
    """A number as it was written."""


class Loose(str):
    """Text whose spelling is not compared: an object or array."""


def judge(line: bytes) -> Judged:
    """What becomes of a line that stands alone.

    Raises:
        Unsure: its size as text is near a limit, and it is no text.
    """
    if not line.strip(b" \t\r\n\x0b\x0c"):
        return None
    if len(line.removesuffix(b"\r")) > 1 << 20:
        return "record_too_large"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "invalid_utf8"
    if _depth(text) > 100:
        return "too_deep"
    try:
        record = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_refused, strict=True
        )
    except (ValueError, RecursionError):
        return "invalid_json"
    if not isinstance(record, dict):
        return "not_an_object"
    if text[:1] == "\ufeff" or not text.lstrip(" \t\r").startswith("{"):
        return "invalid_json"
    if len(record) > 1_000:
        return "too_many_fields"
    return _event({name: _text(record[name]) for name in KNOWN if name in record})


def _refused(name: str) -> Any:
    raise ValueError(name)


def _depth(text: str) -> int:
    """The deepest bracket outside of strings; 0 where there are too few to matter."""
    if text.count("[") + text.count("{") <= 100:
        return 0
    depth = deepest = 0
    inside = escaped = False
    for sign in text:
        if inside:
            inside = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            inside = True
        elif sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest


def _text(value: Any) -> str | None:
    if isinstance(value, _Number):
        return _plain(value)
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value) or None
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(compact.encode("utf-8", "replace")) > 20:
        raise Unsure
    return Loose(compact)


def _plain(literal: str) -> str:
    """A JSON number in plain notation, as the documentation has it."""
    if re.fullmatch(r"-?\d+", literal):
        return "0" if literal == "-0" else literal
    if "e" not in literal.lower():
        return literal.rstrip("0").rstrip(".")
    try:
        value = decimal.Decimal(literal)
    except decimal.InvalidOperation:  # an exponent that is no 64-bit number
        return literal
    if value and abs(value.adjusted()) > 40 + len(literal):
        return str(value)
    if not value:
        return "-0" if literal.startswith("-") else "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _event(texts: dict[str, str | None]) -> dict[str, Any] | str:
    """Values of the event, or the first reason against it; reasons are not compared."""
    found: dict[str, Any] = {name: texts.get(name) for name in (*IDS, *TEXTS, "event_type")}
    for name in (*IDS, *TEXTS):
        value = found[name]
        if value is None:
            continue
        if len(value.encode()) > (256 if name in IDS else 32 << 10):
            return "too_long"
        if name in IDS and re.search("[\x00-\x1f\x7f-\x9f\ufffd]", value):
            return "invalid_id"
    if not found["advertiser_id"] or found["event_type"] not in (
        "impression",
        "click",
        "conversion",
    ):
        return "missing"
    for name in ("occurred_at", "received_at"):
        value = texts.get(name)
        found[name] = None if value is None else _time(value)
        if found[name] is None and (value is not None or name == "occurred_at"):
            return "invalid_timestamp"
    currency = texts.get("currency")
    if currency is not None and not re.fullmatch(r"[A-Z]{3}\Z", currency, re.ASCII):
        return "invalid_currency"
    for name in MONEY:
        value = texts.get(name)
        found[name] = None if value is None else _money(value)
        if value is not None and found[name] is None:
            return "invalid_money"
        if found[name] and currency is None:
            return "missing_currency"
    received = found["received_at"]
    if received is not None and received > NOW_MS + DAY_MS:
        return "implausible_time"
    latest = (NOW_MS if received is None else received) + DAY_MS
    if not 946_684_800_000 <= found["occurred_at"] <= latest:
        return "implausible_time"
    return found


def _time(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if match is None or text.endswith("\n"):
        return None
    year, month, day, hour, minute = (int(match[at]) for at in range(1, 6))
    if int(match[9] or 0) > 23 or int(match[10] or 0) > 59:
        return None
    try:
        at = datetime.datetime(
            max(year, 1), month, day, hour, minute, int(match[6] or 0), tzinfo=UTC
        )
    except ValueError:
        return None
    if not year:
        return -(1 << 60)  # implausible as a year, whatever its days
    ms = (at - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(milliseconds=1)
    ms += int((match[7] or "0").ljust(3, "0")[:3])
    offset = (int(match[9] or 0) * 60 + int(match[10] or 0)) * 60_000
    return ms - offset if match[8] != "-" else ms + offset


def _money(text: str) -> int | None:
    if not _MONEY.fullmatch(text) or text.endswith("\n") or len(text) > 5_000:
        return None
    try:
        value = decimal.Decimal(text)
        if abs(value.adjusted()) > 60 and value:
            return None
        whole = int(value)
    except (decimal.DecimalException, OverflowError, ValueError):
        return None
    return whole if whole == value and abs(whole) <= 10**16 else None
