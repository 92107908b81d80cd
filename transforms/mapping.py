"""Mappings: how foreign records become events, read from TOML and checked at once.

``docs/mapping.md`` explains the file with examples.
"""

from __future__ import annotations

import datetime
import re
import tomllib
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import polars as pl

from adtally.io import schema
from adtally.io.files import read_bytes

TEXT_TIME_FORMATS: Final = ("rfc3339",)
EPOCH_UNITS: Final = {"epoch_s": 1_000, "epoch_ms": 1, "epoch_us": -1_000}
"""Named epoch formats: milliseconds per unit, negative where a unit is a fraction of one."""

OFFSET_DIRECTIVE: Final = re.compile(r"%(?::{0,3}|#)z|%\+")
"""What reads an offset in a strptime pattern."""

UNREADABLE_NAME: Final = re.compile(r'[\x00-\x1f"\\]')
"""What names of fields must not have, or msgspec does not read them."""

_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)

MONEY_FIELDS: Final = ("cost_micros", "revenue_micros")
TIME_FIELDS: Final = ("occurred_at", "received_at")


class MappingError(ValueError):
    """A mapping that cannot be used; the message names the place and the remedy."""


class FieldRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """Where one event field comes from.

    Attributes:
        source: the record's field (``from`` in TOML).
        path: a JSONPath such as ``$.id`` inside that field when it holds an object.
        constant: a fixed text, instead of ``source``.
        default: a text used where the record has none.
        time_format: ``rfc3339``, ``epoch_s``, ``epoch_ms``, ``epoch_us`` or a strptime pattern
            (of chrono: fractions of a second are ``%.f``); never guessed.
        time_zone: IANA zone of times written without an offset.
        micros_per_unit: micros in one unit of the source: 1 for micros, 1,000,000 for currency
            units, 10,000 for cents, 1,000 for a price per thousand.
        rounding: what to do with fractions of a micro: ``error`` or ``half_even``.
    """

    source: str | None = None
    path: str | None = None
    constant: str | None = None
    default: str | None = None
    time_format: str = "rfc3339"
    time_zone: str | None = None
    micros_per_unit: int = 1
    rounding: Literal["error", "half_even"] = "error"


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """True for records whose ``field``, as text, is one of ``equals``."""

    field: str
    equals: str | list[str]

    @property
    def values(self) -> list[str]:
        return [self.equals] if isinstance(self.equals, str) else self.equals


class EventRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event made of a record, when its condition holds; its fields add to the common ones."""

    when: Condition | None = None
    fields: dict[str, FieldRule | str] = {}


class _MappingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fields: dict[str, FieldRule | str] = {}
    events: list[EventRule] = []
    description: str = ""


class EventMapping(msgspec.Struct, frozen=True):
    """All rules for one event: field name to rule, in schema order."""

    when: Condition | None
    fields: dict[str, FieldRule]


class Mapping(msgspec.Struct, frozen=True):
    """A checked mapping: one or more events per record, and the source fields that it reads."""

    events: tuple[EventMapping, ...]
    sources: tuple[str, ...]


def identity_mapping() -> Mapping:
    """Records that already have the schema's field names."""
    fields: dict[str, FieldRule | str] = {name: name for name in schema.DECODED_FIELDS}
    return _checked(_MappingFile(fields=fields))


def load_mapping(path: str | Path) -> Mapping:
    """Read and check a mapping.

    Raises:
        MappingError: it cannot be read, or a rule is wrong; says where and what to write.
    """
    try:
        data = read_bytes(str(path))
    except (OSError, ValueError) as error:  # ValueError: a scheme Beam does not know
        raise MappingError(f"mapping {str(path)!r} cannot be read: {error}") from error
    return parse_mapping(data, str(path))


def parse_mapping(data: bytes | str, name: str = "mapping") -> Mapping:
    """As :func:`load_mapping`, from TOML text."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        content = tomllib.loads(text)
    except ValueError as error:
        raise MappingError(f"{name} is not TOML in UTF-8: {error}; correct it there.") from error
    try:
        _check_shapes(content)
        return _checked(msgspec.convert(content, _MappingFile))
    except msgspec.ValidationError as error:
        raise MappingError(f"{name}: {error}. {_known(_MappingFile)}") from error
    except MappingError as error:
        raise MappingError(f"{name}: {error}") from error


def _check_shapes(content: dict[str, Any]) -> None:
    """Check rules one by one, because msgspec does not say which key of a table is wrong."""
    parts: list[tuple[str, Any]] = [("", content)]
    events = content.get("events")
    if isinstance(events, list):
        parts += [(f"events[{index}].", event) for index, event in enumerate(events)]
    for place, part in parts:
        if not isinstance(part, dict):
            continue
        fields = part.get("fields")
        rules = fields.items() if isinstance(fields, dict) else ()
        wanted: list[tuple[str, Any, Any]] = [
            (f"{place}fields.{name}", rule, FieldRule | str) for name, rule in rules
        ]
        if "when" in part and place:
            wanted.append((f"{place}when", part["when"], Condition))
        for where, value, kind in wanted:
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                known = _known(Condition if kind is Condition else FieldRule)
                raise MappingError(f"{where}: {error}. {known}") from error


def _known(kind: type[msgspec.Struct]) -> str:
    return f"Keys: {', '.join(kind.__struct_encode_fields__)}."


def _checked(file: _MappingFile) -> Mapping:
    rules = file.events or [EventRule()]
    for index, rule in enumerate(rules):
        if rule.when is not None and not rule.when.values:
            raise MappingError(f"events[{index}].when: 'equals' is empty; give at least one text.")
    events = tuple(
        EventMapping(rule.when, _merged(file.fields, rule.fields, f"events[{index}]"))
        for index, rule in enumerate(rules)
    )
    _check_types_differ(events)
    sources = _sources(events)
    if not sources:
        raise MappingError("no rule reads the record, so all events were alike; add a 'from'.")
    for name in sources:
        if UNREADABLE_NAME.search(name):
            raise MappingError(
                f"a field called {name!r} cannot be read; quotation marks, backslashes and control "
                f"characters are not possible in names that a mapping reads."
            )
    return Mapping(events, tuple(sources))


def _merged(
    common: dict[str, FieldRule | str], own: dict[str, FieldRule | str], place: str
) -> dict[str, FieldRule]:
    merged: dict[str, FieldRule] = {}
    for name, rule in {**common, **own}.items():
        if name not in schema.DECODED_FIELDS:
            raise MappingError(
                f"{place}: {name!r} is not an event field; nothing would read it. "
                f"Fields: {', '.join(schema.DECODED_FIELDS)}."
            )
        full = FieldRule(source=rule) if isinstance(rule, str) else rule
        _check_rule(name, full, f"{place}.{name}")
        merged[name] = full
    for name in ("event_type", "occurred_at", "advertiser_id"):
        if name not in merged:
            raise MappingError(f"{place}: {name!r} is required and has no rule; add one.")
    return {name: merged[name] for name in schema.DECODED_FIELDS if name in merged}


def _check_rule(name: str, rule: FieldRule, place: str) -> None:
    if (rule.source is None) == (rule.constant is None):
        raise MappingError(f"{place}: give either 'from' or 'constant', and only one of them.")
    if rule.path is not None:
        _check_path(rule, place)
    if rule.micros_per_unit < 1:
        raise MappingError(f"{place}: micros_per_unit is {rule.micros_per_unit}; it must be >= 1.")
    if name not in TIME_FIELDS and (rule.time_format != "rfc3339" or rule.time_zone):
        raise MappingError(f"{place}: time_format and time_zone belong to {TIME_FIELDS} only.")
    if name not in MONEY_FIELDS and (rule.micros_per_unit != 1 or rule.rounding != "error"):
        raise MappingError(f"{place}: micros_per_unit and rounding belong to {MONEY_FIELDS} only.")
    if name in TIME_FIELDS:
        _check_time(rule, place)
    for text in (rule.constant, rule.default):
        if text is not None:
            _check_text(name, rule, text, place)


def _check_path(rule: FieldRule, place: str) -> None:
    if rule.source is None:
        raise MappingError(f"{place}: 'path' looks inside 'from', which is missing.")
    try:
        pl.Series(["{}"]).str.json_path_match(str(rule.path))
    except pl.exceptions.PolarsError as error:
        raise MappingError(
            f"{place}: path {rule.path!r} is no JSONPath; write it like '$.id' or '$.items[0].id'."
        ) from error


def _check_text(name: str, rule: FieldRule, text: str, place: str) -> None:
    """A fixed text that no record could be decoded with is a mistake in the mapping."""
    from adtally.transforms import columns  # which needs FieldRule

    column = pl.Series([text])
    if name == "event_type":
        wrong, remedy = text not in schema.EVENT_TYPES, f"one of {', '.join(schema.EVENT_TYPES)}"
    elif name == "currency":
        wrong, remedy = not _CURRENCY.fullmatch(text), "an ISO 4217 code, such as 'EUR'"
    elif name in TIME_FIELDS:
        wrong = columns.parse_times(column, rule)[0] is None
        remedy = f"a time as {rule.time_format}"
    elif name in MONEY_FIELDS:
        wrong, remedy = (
            columns.parse_money(column, rule)[0] is None,
            "whole micros after conversion",
        )
    else:
        wrong, remedy = not text, "a text that is not empty"
    if wrong:
        raise MappingError(f"{place}: {text!r} would fail every record; give {remedy}.")


def _check_time(rule: FieldRule, place: str) -> None:
    named = rule.time_format in TEXT_TIME_FORMATS or rule.time_format in EPOCH_UNITS
    if not named and "%" not in rule.time_format:
        raise MappingError(
            f"{place}: time_format {rule.time_format!r} is not known. Use rfc3339, "
            f"{', '.join(EPOCH_UNITS)}, or a strptime pattern such as '%Y-%m-%d %H:%M:%S'."
        )
    has_offset = not named and OFFSET_DIRECTIVE.search(rule.time_format) is not None
    if not named:
        _check_pattern(rule.time_format, place)
        if not has_offset and rule.time_zone is None:
            raise MappingError(
                f"{place}: {rule.time_format!r} has no offset, so time_zone is needed, "
                f"such as 'UTC'."
            )
    if rule.time_zone is not None and (has_offset or rule.time_format in EPOCH_UNITS):
        raise MappingError(
            f"{place}: times as {rule.time_format!r} say where they are, so time_zone "
            f"{rule.time_zone!r} would not be used; leave it out."
        )
    if rule.time_zone is not None:
        _check_zone(rule.time_zone, place)


def _check_pattern(pattern: str, place: str) -> None:
    """Refuse what would be guessed or lost, and what does not read back what it writes."""
    plain = pattern.replace("%%", "")
    for directive, remedy in {
        "%f": "it counts nanoseconds here; write %.f for the point and the fraction",
        "%Z": "names of zones are ambiguous; write the name as text, and give time_zone",
        "%s": "use epoch_s",
    }.items():
        if directive in plain:
            raise MappingError(f"{place}: {directive} in {pattern!r} is not understood: {remedy}.")
    sample = pl.Series([datetime.datetime(2001, 2, 3, 16, 5, 6, tzinfo=datetime.UTC)])
    try:
        text = sample.dt.strftime(pattern.replace("%#z", "%z"))
        read = text.str.to_datetime(pattern, strict=False, time_zone="UTC").dt.date()[0]
    except pl.exceptions.PolarsError:
        read = None
    if read != sample.dt.date()[0]:
        raise MappingError(
            f"{place}: {pattern!r} does not read a date and time back; it needs year, month and "
            f"day, and hour and minute or neither, such as '%Y-%m-%d %H:%M:%S'."
        )


def _check_zone(time_zone: str, place: str) -> None:
    try:
        zoneinfo.ZoneInfo(time_zone)  # Polars takes an empty one
        pl.Series([0]).cast(pl.Datetime("ms")).dt.replace_time_zone(time_zone)
    except (
        OSError,
        ValueError,
        zoneinfo.ZoneInfoNotFoundError,
        pl.exceptions.PolarsError,
    ) as error:
        raise MappingError(
            f"{place}: time_zone {time_zone!r} is not an IANA zone, "
            f"such as 'UTC' or 'Europe/Berlin'."
        ) from error


def _check_types_differ(events: Sequence[EventMapping]) -> None:
    """Two events of one record need different types, or one would pass for the other's copy."""
    constants: list[Any] = [event.fields["event_type"].constant for event in events]
    if len(events) > 1 and (None in constants or len(set(constants)) < len(constants)):
        raise MappingError(
            f"events: a record that gives several events needs a different constant event_type "
            f"in each, found {constants}; otherwise they would count as duplicates."
        )


def _sources(events: Sequence[EventMapping]) -> list[str]:
    names: dict[str, None] = {}
    for event in events:
        if event.when is not None:
            names[event.when.field] = None
        for rule in event.fields.values():
            if rule.source is not None:
                names[rule.source] = None
    return list(names)
