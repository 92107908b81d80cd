"""Mappings: every wrong file is refused with the place and the remedy."""

from pathlib import Path

import pytest

from adtally.io import schema
from adtally.transforms.mapping import (
    FieldRule,
    MappingError,
    identity_mapping,
    load_mapping,
    parse_mapping,
)

SHIPPED = Path(__file__).parents[2] / "pipelines/mappings/talkingdata.toml"
BASE = '[fields]\nadvertiser_id = "app"\nevent_type = "kind"\noccurred_at = "at"\n'
TIMED = '[fields]\nadvertiser_id = "app"\nevent_type = "kind"\n[fields.occurred_at]\nfrom = "at"\n'


def test_identity_mapping_reads_every_field_of_the_schema_but_extra() -> None:
    mapping = identity_mapping()
    assert set(mapping.sources) == set(schema.DECODED_FIELDS)
    assert "extra" not in mapping.sources
    (event,) = mapping.events
    assert event.when is None
    assert list(event.fields) == list(schema.DECODED_FIELDS)


def test_rules_of_an_event_add_to_the_common_ones_and_override_them() -> None:
    mapping = parse_mapping(
        BASE + 'country = "c"\n[[events]]\nfields.event_type = { constant = "click" }\n'
        '[[events]]\nwhen = { field = "bought", equals = ["1", "true"] }\n'
        'fields.event_type = { constant = "conversion" }\n'
        'fields.revenue_micros = { from = "price", micros_per_unit = 10000 }\n'
    )
    click, conversion = mapping.events
    assert click.fields["event_type"] == FieldRule(constant="click")
    assert "revenue_micros" not in click.fields
    assert conversion.fields["revenue_micros"].micros_per_unit == 10_000
    assert conversion.fields["country"] == FieldRule(source="c")
    assert conversion.when is not None
    assert conversion.when.values == ["1", "true"]
    assert sorted(mapping.sources) == ["app", "at", "bought", "c", "price"]


def test_the_shipped_mapping_loads() -> None:
    mapping = load_mapping(SHIPPED)
    assert [event.fields["event_type"].constant for event in mapping.events] == [
        "click",
        "conversion",
    ]


WRONG = {
    "not TOML": ("[", "not TOML", "correct"),
    "not UTF-8": (b"\xff", "UTF-8", "correct"),
    "unknown table": (BASE + "[field]\n", "`field`", "Keys: fields, events"),
    "fields no table": ("fields = 1", "$.fields", "Keys: fields"),
    "events no list": (BASE + "[events]\n", "$.events", "Keys: fields, events"),
    "event no table": ("events = [1]\n" + BASE, "events[0]", "Keys: fields, events"),
    "unknown event field": (BASE + 'contry = "c"\n', "'contry'", "Fields: event_id"),
    "rule of a wrong type": ("[fields]\nadvertiser_id = 5\n", "fields.advertiser_id", "Keys: from"),
    "unknown key": (TIMED + 'format = "x"\n', "fields.occurred_at", "time_format"),
    "unknown key in event": (
        BASE + '[[events]]\nfields.ip = { form = "x" }\n',
        "events[0].fields.ip",
        "Keys: from",
    ),
    "unknown rounding": (TIMED + 'rounding = "up"\n', "fields.occurred_at", "rounding"),
    "unknown key of when": (
        BASE + '[[events]]\nwhen = { field = "a", is = "1" }\n',
        "events[0].when",
        "Keys: field, equals",
    ),
    "equals no text": (
        BASE + '[[events]]\nwhen = { field = "a", equals = 1 }\n',
        "events[0].when",
        "str",
    ),
    "equals empty": (
        BASE + '[[events]]\nwhen = { field = "a", equals = [] }\n',
        "events[0].when",
        "give at least one",
    ),
    "required missing": ('[fields]\nadvertiser_id = "a"\nevent_type = "b"\n', "occurred_at", "add"),
    "neither source nor constant": (
        BASE + 'country = { default = "DE" }\n',
        "events[0].country",
        "'from' or 'constant'",
    ),
    "source and constant": (
        BASE + 'country = { from = "c", constant = "DE" }\n',
        "events[0].country",
        "only one",
    ),
    "path without source": (
        BASE + 'country = { constant = "DE", path = "$.a" }\n',
        "events[0].country",
        "missing",
    ),
    "path is no path": (
        BASE + 'country = { from = "c", path = "$.a[" }\n',
        "events[0].country",
        "$.id",
    ),
    "path without its dollar": (
        BASE + 'country = { from = "c", path = "a" }\n',
        "events[0].country",
        "$.id",
    ),
    "unit of nothing": (BASE + 'cost_micros = { from = "c", micros_per_unit = 0 }\n', "0", ">= 1"),
    "unit is no integer": (
        BASE + 'cost_micros = { from = "c", micros_per_unit = 0.5 }\n',
        "fields.cost_micros",
        "int",
    ),
    "money on text": (
        BASE + 'country = { from = "c", micros_per_unit = 10 }\n',
        "events[0].country",
        "cost_micros",
    ),
    "rounding on text": (
        BASE + 'country = { from = "c", rounding = "half_even" }\n',
        "events[0].country",
        "cost_micros",
    ),
    "time on text": (
        BASE + 'country = { from = "c", time_zone = "UTC" }\n',
        "events[0].country",
        "occurred_at",
    ),
    "time format unknown": (TIMED + 'time_format = "epoch"\n', "'epoch'", "epoch_ms"),
    "zone needed": (TIMED + 'time_format = "%Y-%m-%d %H:%M"\n', "time_zone", "'UTC'"),
    "zone unknown": (TIMED + 'time_zone = "Berlin"\n', "'Berlin'", "Europe/Berlin"),
    "zone is a folder": (TIMED + 'time_zone = "Europe"\n', "'Europe'", "Europe/Berlin"),
    "zone is empty": (TIMED + 'time_zone = ""\n', "''", "Europe/Berlin"),
    "zone is a path": (TIMED + 'time_zone = "../x"\n', "'../x'", "Europe/Berlin"),
    "zone that Polars lacks": (TIMED + 'time_zone = "localtime"\n', "localtime", "Europe/Berlin"),
    "zone of an epoch": (
        TIMED + 'time_format = "epoch_s"\ntime_zone = "UTC"\n',
        "epoch_s",
        "leave it out",
    ),
    "zone beside an offset": (
        TIMED + 'time_format = "%Y-%m-%dT%H:%M:%S%:z"\ntime_zone = "Europe/Berlin"\n',
        "%:z",
        "leave it out",
    ),
    "nanoseconds": (
        TIMED + 'time_format = "%Y-%m-%d %H:%M:%S.%f"\ntime_zone = "UTC"\n',
        "%f",
        "%.f",
    ),
    "name of a zone": (
        TIMED + 'time_format = "%Y-%m-%d %H:%M:%S %Z"\ntime_zone = "UTC"\n',
        "%Z",
        "time_zone",
    ),
    "epoch as pattern": (TIMED + 'time_format = "%s"\ntime_zone = "UTC"\n', "%s", "epoch_s"),
    "unknown directive": (TIMED + 'time_format = "%Q"\ntime_zone = "UTC"\n', "%Q", "%Y-%m-%d"),
    "no date": (TIMED + 'time_format = "%H:%M"\ntime_zone = "UTC"\n', "%H:%M", "year"),
    "no year": (TIMED + 'time_format = "%d/%m %H:%M"\ntime_zone = "UTC"\n', "%d/%m", "year"),
    "half a time": (TIMED + 'time_format = "%Y-%m-%d %H"\ntime_zone = "UTC"\n', "%H", "minute"),
    "half a day": (
        TIMED + 'time_format = "%Y-%m-%d %I:%M"\ntime_zone = "UTC"\n',
        "%I",
        "hour",
    ),
    "constant type": (
        '[fields]\nadvertiser_id = "a"\noccurred_at = "t"\nevent_type = { constant = "view" }\n',
        "'view'",
        "impression",
    ),
    "default type": (
        '[fields]\nadvertiser_id = "a"\noccurred_at = "t"\n'
        'event_type = { from = "k", default = "view" }\n',
        "'view'",
        "impression",
    ),
    "constant currency": (BASE + 'currency = { constant = "usd" }\n', "'usd'", "'EUR'"),
    "default money": (BASE + 'cost_micros = { from = "c", default = "0.5" }\n', "'0.5'", "whole"),
    "constant time": (TIMED + 'default = "yesterday"\n', "'yesterday'", "rfc3339"),
    "empty constant": (BASE + 'country = { constant = "" }\n', "events[0].country", "not empty"),
    "same types": (
        BASE + '[[events]]\nfields.event_type = { constant = "click" }\n'
        '[[events]]\nfields.event_type = { constant = "click" }\n',
        "events",
        "different constant event_type",
    ),
    "types unknown": (BASE + "[[events]]\n[[events]]\n", "events", "different constant event_type"),
    "nothing read": (
        '[fields]\nadvertiser_id = { constant = "a" }\nevent_type = { constant = "click" }\n'
        'occurred_at = { constant = "2024-01-01T00:00:00Z" }\n',
        "no rule reads",
        "'from'",
    ),
}


@pytest.mark.parametrize(("text", "place", "remedy"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_mapping_is_refused(text: str | bytes, place: str, remedy: str) -> None:
    with pytest.raises(MappingError) as caught:
        parse_mapping(text, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml")
    assert place in message
    assert remedy in message


def test_a_mapping_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"none\.toml"):
        load_mapping(tmp_path / "none.toml")


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_mapping(b"\xef\xbb\xbf" + BASE.encode()) == parse_mapping(BASE)


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%d %H:%M:%S%.f",
        "%d.%m.%y %H:%M",
        "%Y%m%d%H%M%S",
        "%m/%d/%Y %I:%M:%S %p",
        "%a, %d %b %Y %T",
        "%Y-%m-%d",
    ],
)
def test_usual_patterns_are_accepted_with_a_zone(pattern: str) -> None:
    parse_mapping(TIMED + f'time_format = "{pattern}"\ntime_zone = "Europe/Berlin"\n')


@pytest.mark.parametrize(
    "pattern", ["%d/%b/%Y:%H:%M:%S %z", "%FT%T%:z", "%Y-%m-%d %H:%M:%S%#z", "%+"]
)
def test_patterns_with_an_offset_need_no_zone(pattern: str) -> None:
    parse_mapping(TIMED + f'time_format = "{pattern}"\n')
