"""Mappings: how foreign records become events, read from TOML and checked at once.

``docs/mapping.md`` explains the file with examples.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from adtally.io import schema

TEXT_TIME_FORMATS: Final = ("rfc3339",)
EPOCH_UNITS: Final = {"epoch_s": 1_000, "epoch_ms": 1, "epoch_us": -1_000}
"""Named epoch formats: milliseconds per unit, negative where a unit is a fraction of one."""

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
        time_format: ``rfc3339``, ``epoch_s``, ``epoch_ms``, ``epoch_us`` or a strptime pattern;
            never guessed.
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
        data = Path(path).read_bytes()
    except OSError as error:
        raise MappingError(f"mapping {str(path)!r} cannot be read: {error}") from error
    return parse_mapping(data, str(path))


def parse_mapping(data: bytes | str, name: str = "mapping") -> Mapping:
    """As :func:`load_mapping`, from TOML text."""
    try:
        file = msgspec.toml.decode(data, type=_MappingFile)
    except msgspec.MsgspecError as error:
        raise MappingError(f"{name}: {error}") from error
    try:
        return _checked(file)
    except MappingError as error:
        raise MappingError(f"{name}: {error}") from error


def _checked(file: _MappingFile) -> Mapping:
    rules = file.events or [EventRule()]
    events = tuple(
        EventMapping(rule.when, _merged(file.fields, rule.fields, f"events[{index}]"))
        for index, rule in enumerate(rules)
    )
    _check_types_differ(events)
    return Mapping(events, tuple(_sources(events)))


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
    if rule.path is not None and rule.source is None:
        raise MappingError(f"{place}: 'path' looks inside 'from', which is missing.")
    if rule.micros_per_unit < 1:
        raise MappingError(f"{place}: micros_per_unit is {rule.micros_per_unit}; it must be >= 1.")
    if name not in TIME_FIELDS and (rule.time_format != "rfc3339" or rule.time_zone):
        raise MappingError(f"{place}: time_format and time_zone belong to {TIME_FIELDS} only.")
    if name not in MONEY_FIELDS and (rule.micros_per_unit != 1 or rule.rounding != "error"):
        raise MappingError(f"{place}: micros_per_unit and rounding belong to {MONEY_FIELDS} only.")
    if name in TIME_FIELDS:
        _check_time(rule, place)


def _check_time(rule: FieldRule, place: str) -> None:
    named = rule.time_format in TEXT_TIME_FORMATS or rule.time_format in EPOCH_UNITS
    if not named and "%" not in rule.time_format:
        raise MappingError(
            f"{place}: time_format {rule.time_format!r} is not known. Use rfc3339, "
            f"{', '.join(EPOCH_UNITS)}, or a strptime pattern such as '%Y-%m-%d %H:%M:%S'."
        )
    if not named and "%z" not in rule.time_format and rule.time_zone is None:
        raise MappingError(
            f"{place}: {rule.time_format!r} has no offset, so time_zone is needed, such as 'UTC'."
        )
    if rule.time_zone is not None:
        try:
            zoneinfo.ZoneInfo(rule.time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise MappingError(
                f"{place}: time_zone {rule.time_zone!r} is not an IANA zone, "
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
    for constant in constants:
        if constant is not None and constant not in schema.EVENT_TYPES:
            raise MappingError(f"event_type {constant!r} is none of {schema.EVENT_TYPES}.")


def _sources(events: Sequence[EventMapping]) -> list[str]:
    names: dict[str, None] = {}
    for event in events:
        if event.when is not None:
            names[event.when.field] = None
        for rule in event.fields.values():
            if rule.source is not None:
                names[rule.source] = None
    return list(names)
