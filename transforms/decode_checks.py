"""What a record has to be to give an event: checks of whole columns, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from adtally.io import schema
from adtally.io.limits import ID_TOO_LONG, INVALID_ID, TEXT_TOO_LONG, Limits
from adtally.transforms.json_scan import UNCLEAN
from adtally.transforms.mapping import MONEY_FIELDS, TIME_FIELDS, FieldRule, Mapping

DAY_MS: Final = 86_400_000
VALUE_LIMIT: Final = 200
"""Characters of a bad value that a dead letter's message repeats."""

MONEY_LIMIT_MICROS: Final = 10**16
"""Ten billion currency units. An amount beyond is a mistake of units, and a few hundred of them in
one window would not fit the 64 bits of its sum."""

ID_FIELDS: Final = (
    "event_id",
    "advertiser_id",
    "campaign_id",
    "ad_group_id",
    "creative_id",
    "placement_id",
    "publisher_id",
    "impression_id",
    "click_id",
    "user_id",
    "ip",
    "country",
)
"""What is compared, grouped by, or shown as the subject of a flag."""

TEXT_FIELDS: Final = ("user_agent", "url", "schema_version")


@dataclass(frozen=True)
class Plausible:
    """Times outside of this are dead letters: one bad clock must not open windows without end.

    Attributes:
        earliest_ms: the first plausible ``occurred_at``; before 2000 there was no ad tracking.
        ahead_ms: how far ``occurred_at`` may lie after ``received_at``, or where a record does not
            say when it was received, after its arrival in a stream, or after ``now``. A day covers
            clocks in a wrong time zone.
    """

    earliest_ms: int = 946_684_800_000
    ahead_ms: int = DAY_MS


@dataclass(frozen=True)
class Failure:
    """Why a record gave no event."""

    error_type: str
    message: str


@dataclass(frozen=True)
class Check:
    """A way to fail: where ``failed`` is true, ``field`` is wrong, and ``why`` says what to do."""

    error_type: str
    field: str
    failed: pl.Expr
    why: str


def _raw(name: str) -> pl.Expr:
    return pl.col(f"raw {name}")


def checks_of(
    fields: dict[str, FieldRule], now: pl.Expr, plausible: Plausible, limits: Limits
) -> list[Check]:
    """All checks of an event rule, in the order in which a failure counts."""
    return [
        *_lengths(fields, limits),
        *_conversions(fields),
        *_requirements(fields),
        *_currency_checks(fields),
        *_plausibility(fields, now, plausible),
    ]


def failures_of(both: pl.DataFrame, masks: pl.DataFrame, checks: list[Check]) -> dict[int, Failure]:
    """Failures by row; the first check that a row fails stands."""
    failures: dict[int, Failure] = {}
    for check, mask in zip(checks, masks, strict=True):
        if mask.any():
            name = f"raw {check.field}"
            texts = both[name if name in both.columns else check.field]
            for at in mask.arg_true().to_list():
                value = texts[at]
                shown = "missing" if value is None else repr(value[:VALUE_LIMIT])
                message = f"{check.field} is {shown}; the record was not counted. {check.why}"
                failures.setdefault(at, Failure(check.error_type, message))
    return failures


def _lengths(fields: dict[str, FieldRule], limits: Limits) -> Iterator[Check]:
    """No id is longer than a key may be where it becomes one, and no text endless."""
    for error_type, names, most, option in (
        (ID_TOO_LONG, ID_FIELDS, limits.id_bytes, "--max-id-bytes"),
        (TEXT_TOO_LONG, TEXT_FIELDS, limits.text_bytes, "--max-text-bytes"),
    ):
        why = f"It has more than {most:,} bytes; correct who writes it, or raise {option}."
        for name in names:
            if name in fields:
                yield Check(error_type, name, pl.col(name).str.len_bytes() > most, why)


def unclean(
    frame: pl.DataFrame, fields: dict[str, FieldRule], rows: np.ndarray, failed: dict[int, Failure]
) -> dict[int, Failure]:
    """Failures of those of the rows whose ids have control characters, or lost some."""
    found: dict[int, Failure] = {}
    for name in ID_FIELDS:
        if name not in fields or not len(rows):
            continue
        texts = frame[name].gather(rows.astype(np.uint32))
        for at in texts.str.contains(UNCLEAN).fill_null(False).arg_true().to_list():
            message = (
                f"{name} is {texts[at][:VALUE_LIMIT]!r}; the record was not counted. It has "
                f"control characters, or U+FFFD for text that was lost: other ids would look like "
                f"it. Correct who writes it, or allow it with --id-controls."
            )
            if (row := int(rows[at])) not in failed:
                found.setdefault(row, Failure(INVALID_ID, message))
    return found


def _conversions(fields: dict[str, FieldRule]) -> Iterator[Check]:
    """There was text, and it could not be converted."""
    for name, rule in fields.items():
        unfit = pl.col(name).is_null()
        if name in TIME_FIELDS:
            why = f"It has to be a time as {rule.time_format}; correct it or the mapping."
            error_type = "invalid_timestamp"
        elif name in MONEY_FIELDS:
            why, error_type = _money_remedy(rule), "invalid_money"
            limited = pl.col(name).is_between(-MONEY_LIMIT_MICROS, MONEY_LIMIT_MICROS)
            unfit = ~limited.fill_null(False)
        else:
            continue
        yield Check(error_type, name, _raw(name).is_not_null() & unfit, why)


def _money_remedy(rule: FieldRule) -> str:
    limit = f"of at most {MONEY_LIMIT_MICROS:,}"
    if rule.micros_per_unit == 1:
        return f"It has to be a whole number of micros {limit}; a mapping can convert other units."
    return (
        f"Times {rule.micros_per_unit} it has to be a whole number of micros {limit}; "
        f"rounding = 'half_even' in the mapping allows fractions."
    )


def _requirements(fields: dict[str, FieldRule]) -> Iterator[Check]:
    for name in ("event_type", "advertiser_id"):
        yield Check("missing_field", name, pl.col(name).is_null(), "It is required.")
    yield Check("missing_field", "occurred_at", _raw("occurred_at").is_null(), "It is required.")
    if fields["event_type"].constant is None:
        known = pl.col("event_type").is_in(list(schema.EVENT_TYPES))
        why = f"It has to be one of {', '.join(schema.EVENT_TYPES)}."
        yield Check("unknown_event_type", "event_type", ~known, why)


def _currency_checks(fields: dict[str, FieldRule]) -> Iterator[Check]:
    has_currency = "currency" in fields
    if has_currency:
        malformed = ~pl.col("currency").str.contains(r"^[A-Z]{3}$")
        yield Check("invalid_currency", "currency", malformed, "It has to be ISO 4217.")
    for name in MONEY_FIELDS:
        if name in fields:
            orphan = pl.col(name) != 0
            if has_currency:
                orphan = orphan & pl.col("currency").is_null()
            why = f"{name} is not zero, and its currency is missing: sums never cross currencies."
            field = "currency" if has_currency else name
            yield Check("missing_currency", field, orphan, why)


def _plausibility(
    fields: dict[str, FieldRule], now: pl.Expr, plausible: Plausible
) -> Iterator[Check]:
    occurred, received = pl.col("occurred_at"), now
    if "received_at" in fields:  # which is often the clock of the machine that got it wrong
        received = pl.col("received_at")
        ahead = received > now + plausible.ahead_ms
        why = "It is implausible: more than a day after now; check the clock, or its time format."
        yield Check("implausible_time", "received_at", ahead, why)
        received = received.fill_null(now)
    wrong = (occurred < plausible.earliest_ms) | (occurred > received + plausible.ahead_ms)
    why = (
        "It is implausible: before the year 2000, or more than a day after it was received; "
        "check the clock, or the time format of the mapping."
    )
    yield Check("implausible_time", "occurred_at", wrong, why)


def unmatched(mapping: Mapping) -> Failure:
    names = {event.when.field for event in mapping.events if event.when is not None}
    message = (
        f"no [[events]] of the mapping has a 'when' that holds ({', '.join(sorted(names))}); "
        f"the record was not counted. Add one for it, or keep such records out of the input."
    )
    return Failure("no_event_rule", message)
