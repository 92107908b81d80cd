"""Which fields of foreign records are which of ours: proposed by name, and held against values."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from adtally.io import schema
from adtally.transforms.columns import parse_times
from adtally.transforms.mapping import OFFSET_DIRECTIVE, TIME_FIELDS, UNREADABLE_NAME, FieldRule

DEPTH: Final = 4
"""Objects inside objects that are looked into."""

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "event_id": (
        "event_id", "eventid", "event_uuid", "uuid", "guid", "request_id", "transaction_id", "txid",
        "message_id", "log_id", "record_id", "id",
    ),
    "occurred_at": (
        "occurred_at", "event_time", "event_timestamp", "timestamp", "event_ts", "ts", "time",
        "datetime", "date_time", "click_time", "impression_time", "created_at", "event_date",
        "logged_at", "date",
    ),
    "received_at": ("received_at", "server_time", "ingested_at", "ingest_time", "collector_tstamp"),
    "advertiser_id": (
        "advertiser_id", "advertiser", "adv_id", "adv", "account_id", "account", "customer_id",
        "client_id", "client", "tenant_id", "tenant", "brand_id", "brand", "seat_id", "app_id",
        "app",
    ),
    "campaign_id": ("campaign_id", "campaign", "camp_id", "camp", "cmp_id", "cmp", "cid",
                    "utm_campaign"),
    "ad_group_id": ("ad_group_id", "ad_group", "adgroup_id", "adgroup", "ad_set_id", "line_item_id",
                    "line_item", "flight_id"),
    "creative_id": ("creative_id", "creative", "crid", "banner_id", "banner", "ad_id"),
    "placement_id": ("placement_id", "placement", "slot_id", "slot", "zone_id", "zone", "tag_id",
                     "ad_unit_id", "ad_unit"),
    "publisher_id": ("publisher_id", "publisher", "pub_id", "pub", "site_id", "site", "affiliate",
                     "affiliate_id", "channel_id", "channel", "source_id", "network"),
    "impression_id": ("impression_id", "imp_id", "impid"),
    "click_id": ("click_id", "clickid", "gclid", "clk_id"),
    "user_id": ("user_id", "user", "uid", "visitor_id", "visitor", "cookie_id", "cookie",
                "device_id", "idfa", "gaid", "aaid", "domain_userid"),
    "ip": ("ip", "ip_address", "ip_addr", "client_ip", "remote_addr", "user_ip", "user_ipaddress"),
    "user_agent": ("user_agent", "useragent", "ua"),
    "url": ("url", "page_url", "landing_url", "target_url", "page", "link"),
    "country": ("country", "country_code", "geo_country", "geo"),
    "cost_micros": ("cost_micros", "cost", "spend", "price", "win_price", "clearing_price",
                    "bid_price", "cpc", "cpm", "amount", "media_cost"),
    "revenue_micros": ("revenue_micros", "revenue", "payout", "order_value", "sale_amount", "value",
                       "conversion_value"),
    "currency": ("currency", "currency_code", "cur"),
}  # fmt: skip
"""Names that trackers give to what we have, the most telling first; as words with ``_`` between."""

TYPE_NAMES: Final = ("event_type", "eventtype", "event_name", "event", "type", "kind", "action")
TYPES: Final[dict[str, tuple[str, ...]]] = {
    "impression": ("impression", "impressions", "imp", "i", "view", "show", "display", "served"),
    "click": ("click", "clicks", "clk", "c", "cl", "tap", "clickthrough", "ad_click"),
    "conversion": (
        "conversion", "conversions", "conv", "install", "purchase", "sale", "order", "lead",
        "signup", "postback", "a",
    ),
}  # fmt: skip
"""What trackers write for our types of events, in small letters."""

LED_ON: Final = ("is_attributed", "attributed", "converted", "is_conversion", "has_converted",
                 "installed", "is_install")  # fmt: skip
"""Fields that are 1 or true where a click led to a conversion."""

TIME_PATTERNS: Final = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y/%m/%d %H:%M:%S%.f", "%d/%b/%Y:%H:%M:%S %z", "%d.%m.%Y %H:%M:%S%.f",
    "%d/%m/%Y %H:%M:%S%.f", "%m/%d/%Y %H:%M:%S%.f", "%d-%m-%Y %H:%M:%S%.f", "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M:%S %p",
    "%Y%m%d%H%M%S", "%Y%m%d %H:%M:%S", "%a, %d %b %Y %H:%M:%S %z", "%b %d, %Y %H:%M:%S",
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y",
)  # fmt: skip
ENOUGH: Final = 0.95
"""Share of values that have to be what a field is taken for."""

_EPOCHS: Final = {"epoch_s": 10, "epoch_ms": 13, "epoch_us": 16}
"""Named formats, and the digits that they have from 2001 to 2286."""

_MONEY: Final = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?", re.IGNORECASE)
_COMMA: Final = re.compile(r"-?(\d+|\d{1,3}(\.\d{3})+),\d+")


@dataclass
class Seen:
    """A field of the sample.

    Attributes:
        source: the record's own field.
        path: JSONPath inside it; None for the field itself.
        values: texts, as the decoder takes them, of the records that have it.
    """

    source: str
    path: str | None
    values: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As a person writes it."""
        return self.source + (self.path or "$")[1:]

    @property
    def words(self) -> tuple[str, ...]:
        """The name as words with ``_`` between: whole, its last two parts, its last part."""
        parts = [_words(part) for part in self.name.split(".")]
        return tuple(dict.fromkeys(("_".join(parts), "_".join(parts[-2:]), parts[-1])))


@dataclass(frozen=True)
class Guess:
    """One of our fields, as it may be read from the records.

    Attributes:
        target: our field.
        seen: theirs.
        rule: keys beside ``from`` and ``path``, as TOML has them.
        why: what it was taken for.
        doubt: what a person has to look at; empty where the values agree with the name.
        others: names of fields that it may be as well.
    """

    target: str
    seen: Seen
    rule: dict[str, str | int] = field(default_factory=dict)
    why: str = ""
    doubt: str = ""
    others: tuple[str, ...] = ()


def fields_of(records: Sequence[dict[str, Any]]) -> dict[str, Seen]:
    """All fields of records, those inside objects too, by name."""
    found: dict[str, Seen] = {}
    for record in records:
        for source, value in record.items():
            if UNREADABLE_NAME.search(source):
                continue
            for path, text in _leaves(value, "$", 0):
                seen = Seen(source, None if path == "$" else path)
                if text:
                    found.setdefault(seen.name, seen).values.append(text)
    return found


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items() if depth < DEPTH else ():
            if re.fullmatch(r"\w+", key):
                yield from _leaves(inner, f"{path}.{key}", depth + 1)
    elif isinstance(value, bool):
        yield path, json.dumps(value)
    elif isinstance(value, str):
        yield path, value


def _words(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def guesses(fields: dict[str, Seen], records: int, time_zone: str | None) -> list[Guess]:
    """A proposal for each of our fields that the records seem to have.

    Args:
        fields: of the sample.
        records: in it.
        time_zone: of times that say none; None where nobody said.
    """
    taken: set[str] = set()
    made = []
    for target in schema.DECODED_FIELDS:
        if target not in NAMES:
            continue
        check = _CHECKS.get(target, _as_text)
        if target in TIME_FIELDS:
            check = functools.partial(_as_time, time_zone=time_zone)
        named = [seen for seen in _named(NAMES[target], fields) if seen.name not in taken]
        fitting = [guess for seen in named if (guess := check(target, seen)) is not None]
        if target == "occurred_at" and not fitting:
            fitting = [guess for seen in fields.values() if (guess := check(target, seen))]
        fitting.sort(key=lambda guess: len(guess.seen.values) < ENOUGH * records)
        if fitting:
            best = fitting[0]
            taken.add(best.seen.name)
            others = tuple(one.seen.name for one in fitting[1:4])
            made.append(Guess(target, best.seen, best.rule, best.why, best.doubt, others))
    return made


def _named(names: Sequence[str], fields: dict[str, Seen]) -> list[Seen]:
    found = []
    for name in names:
        found += [seen for seen in fields.values() if name in seen.words and seen not in found]
    return found


def _as_text(target: str, seen: Seen) -> Guess:
    return Guess(target, seen, why="by its name")


def _share(seen: Seen, fits: Callable[[str], Any]) -> float:
    return sum(bool(fits(value)) for value in seen.values) / len(seen.values)


def _as_id(target: str, seen: Seen) -> Guess | None:
    """An identity has to tell events apart, or clicks would be thrown away as copies."""
    distinct = len(set(seen.values)) / len(seen.values)
    if distinct < 0.5:
        return None
    doubt = "" if distinct == 1 else (
        f"only {distinct:.0%} of its values are distinct: events of one advertiser and type that "
        f"share one count once. Right for copies, wrong for another kind of id"
    )  # fmt: skip
    return Guess(target, seen, why="by its name, and values that are distinct", doubt=doubt)


def _as_currency(target: str, seen: Seen) -> Guess | None:
    fits = _share(seen, lambda value: re.fullmatch(r"[A-Z]{3}", value))
    return Guess(target, seen, why="three capitals") if fits >= ENOUGH else None


def _as_country(target: str, seen: Seen) -> Guess:
    fits = _share(seen, lambda value: re.fullmatch(r"[A-Za-z]{2,3}", value))
    why = "by its name" + ("" if fits >= ENOUGH else "; its values are no codes of countries")
    return Guess(target, seen, why=why)


def _as_ip(target: str, seen: Seen) -> Guess:
    fits = _share(seen, lambda value: re.fullmatch(r"[0-9a-fA-F:.]*[.:][0-9a-fA-F:.]+", value))
    not_one = "; its values are no addresses, so lists of networks do not apply"
    return Guess(target, seen, why="by its name" + ("" if fits >= ENOUGH else not_one))


def _as_money(target: str, seen: Seen) -> Guess | None:
    if _share(seen, lambda value: _COMMA.fullmatch(value) or _MONEY.fullmatch(value)) < ENOUGH:
        return None
    if any(_COMMA.fullmatch(value) for value in seen.values):
        return Guess(
            target, seen, {"micros_per_unit": 1_000_000}, "amounts with a decimal comma",
            f"make points of its commas: adtally convert --decimal-comma {seen.source}",
        )  # fmt: skip
    digits = max(len(value.partition(".")[2]) for value in seen.values)
    words = seen.words[-1]
    if words.endswith("micros"):
        return Guess(target, seen, {}, "micros, by its name")
    if words.endswith(("cents", "minor")):
        return Guess(target, seen, {"micros_per_unit": 10_000}, "cents, by its name")
    if "cpm" in words:
        rule: dict[str, str | int] = {"micros_per_unit": 1_000, "rounding": "half_even"}
        return Guess(target, seen, rule, "a price per thousand, by its name")
    rule = {"micros_per_unit": 1_000_000}
    if digits > 6:
        rule["rounding"] = "half_even"
    doubt = "" if digits else (
        "whole numbers do not say whether they are units, cents (10_000) or micros (1); "
        "units are assumed, and a wrong guess bills a hundred times too much"
    )  # fmt: skip
    return Guess(target, seen, rule, f"{digits} decimals: currency units", doubt)


def _as_time(target: str, seen: Seen, time_zone: str | None = None) -> Guess | None:
    column = pl.Series(seen.values[:2_000], dtype=pl.String)
    digits = column.str.contains(r"^\d+(\.\d+)?$").mean() or 0.0
    fitting: list[dict[str, str | int]] = []
    if isinstance(digits, float) and digits >= ENOUGH:
        length = int(column.str.replace(r"\..*", "").str.len_chars().median() or 0)  # type: ignore[arg-type]
        fitting = [{"time_format": name} for name, wide in _EPOCHS.items() if length == wide]
    if not fitting:
        formats = ("rfc3339", *TIME_PATTERNS)
        zoned = [_zoned(time_format, time_zone or "UTC") for time_format in formats]
        fitting = [rule for rule in zoned if _reads(column, rule)]
    if not fitting:
        return None
    best = fitting[0]
    doubts = []
    if best["time_format"] == "rfc3339" and _reads(column, {"time_format": "rfc3339"}):
        best = {}
    elif "time_zone" in best and time_zone is None:
        doubts.append("its times say no zone, and UTC is assumed; a wrong one moves every window")
    dates = {str(rule["time_format"]) for rule in fitting}
    if any(a.replace("%d/%m", "%m/%d") in dates for a in dates if "%d/%m" in a):
        doubts.append("every value is a date with the day first and with the month first")
    why = f"times as {best.get('time_format', 'ISO 8601')}, such as {seen.values[0]}"
    return Guess(target, seen, best, why, "; ".join(doubts))


def _zoned(time_format: str, time_zone: str) -> dict[str, str | int]:
    rule: dict[str, str | int] = {"time_format": time_format}
    return rule if OFFSET_DIRECTIVE.search(time_format) else {**rule, "time_zone": time_zone}


def _reads(column: pl.Series, rule: dict[str, Any]) -> bool:
    try:
        times = parse_times(column, FieldRule(source="x", **rule))
    except pl.exceptions.PolarsError:
        return False
    return (len(times) - times.null_count()) >= ENOUGH * len(times)


_CHECKS: Final[dict[str, Callable[[str, Seen], Guess | None]]] = {
    "event_id": _as_id,
    "currency": _as_currency,
    "country": _as_country,
    "ip": _as_ip,
    "cost_micros": _as_money,
    "revenue_micros": _as_money,
}
