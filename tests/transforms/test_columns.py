"""Text to times and money: exact, never guessed, one bad value harms no other."""

import datetime
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.transforms.columns import parse_money, parse_times
from adtally.transforms.mapping import FieldRule

INT64_MAX = (1 << 63) - 1


def times(texts: list[str | None], **options: str) -> list[int | None]:
    column = pl.Series(texts, dtype=pl.String)
    return parse_times(column, FieldRule(source="t", **options)).to_list()


def money(texts: list[str | None], micros_per_unit: int = 1, rounding: str = "error") -> list:
    rule = FieldRule(source="m", micros_per_unit=micros_per_unit, rounding=rounding)
    result = parse_money(pl.Series(texts, dtype=pl.String), rule)
    assert result.dtype == pl.Int64
    return result.to_list()


def utc(*parts: int, ms: int = 0) -> int:
    at = datetime.datetime(*parts, tzinfo=datetime.UTC)  # type: ignore[misc,arg-type]
    return round(at.timestamp()) * 1000 + ms


NOON = utc(2024, 2, 29, 12)

RFC3339 = {
    "2024-02-29T12:00:00Z": NOON,
    "2024-02-29t12:00:00z": NOON,
    "2024-02-29 12:00:00Z": NOON,
    "2024-02-29T12:00Z": NOON,
    "2024-02-29T12:00:00.5Z": NOON + 500,
    "2024-02-29T12:00:00.123456789Z": NOON + 123,
    "2024-02-29T12:00:00.9999Z": NOON + 999,
    "2024-02-29T14:00:00+02:00": NOON,
    "2024-02-29T14:00:00+0200": NOON,
    "2024-02-29T06:30:00-05:30": NOON,
    "2024-02-29T12:00:00-00:00": NOON,
    "1969-12-31T23:59:59.9999Z": -1,
    "1969-12-31T23:59:59.0001Z": -1000,
    "1600-01-01T00:00:00Z": utc(1600, 1, 1),
    "9999-12-31T23:59:59.999999Z": utc(9999, 12, 31, 23, 59, 59, ms=999),
    "2024-02-29T12:00:00": None,  # whose zone?
    "2023-02-29T12:00:00Z": None,
    "2016-12-31T23:59:60Z": None,  # a leap second has no place in UTC milliseconds
    "2024-02-29T24:00:00Z": None,
    "2024-02-29T12:00:00+25:00": None,
    "2024-02-29T12:00:00+02": None,
    "2024-02-29T12:00:00,5Z": None,
    "2024-02-29T12:00:00 Z": None,
    "2024-02-29T12:00:00Z\n": None,
    "2024-02-29": None,
    "1709208000": None,
    "٢٠٢٤-02-29T12:00:00Z": None,
    "": None,
}


@pytest.mark.parametrize(("text", "expected"), RFC3339.items())
def test_rfc3339(text: str, expected: int | None) -> None:
    assert times([text]) == [expected]


def test_one_bad_time_harms_no_other_and_the_fast_path_agrees() -> None:
    good = {text: at for text, at in RFC3339.items() if at is not None}
    ordinary = {text: at for text, at in good.items() if text[0] == "2" and "t" not in text}
    assert times(list(ordinary)) == list(ordinary.values())
    assert times([None, *RFC3339, None]) == [None, *RFC3339.values(), None]
    assert times([]) == []
    assert times([None]) == [None]


@given(
    st.datetimes(datetime.datetime(1600, 1, 1), datetime.datetime(2600, 1, 1)),  # noqa: DTZ001
    st.booleans(),
)
def test_rfc3339_floors_to_the_millisecond(at: datetime.datetime, bad_neighbour: bool) -> None:
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001
    expected = (at - epoch) // datetime.timedelta(milliseconds=1)
    texts = [at.isoformat(timespec="microseconds") + "Z"] + ["x"] * bad_neighbour
    assert times(texts)[0] == expected


def test_times_without_an_offset_are_on_the_clocks_of_the_zone() -> None:
    zone = "Europe/Berlin"
    cases = {
        "2024-02-29T13:00:00": NOON,
        "2024-02-29 13:00:00.9999": NOON + 999,
        "2024-02-29t13:00": NOON,
        "2024-02-29T12:00:00Z": NOON,  # an offset wins
        "2024-02-29T12:00:00+00:00": NOON,
        "2024-07-01T12:00:00": utc(2024, 7, 1, 10),
        "2024-10-27T02:30:00": utc(2024, 10, 27, 0, 30),  # twice: the first
        "2024-10-27T03:00:00": utc(2024, 10, 27, 2),
        "2024-03-31T02:30:00": None,  # never was
        "2024-03-31T03:00:00": utc(2024, 3, 31, 1),
        "1969-12-31T23:59:59.9999": -3_600_001,
        "2016-12-31T23:59:60": None,
        "2024-2-9T13:00:00": None,
        " 2024-02-29T13:00:00": None,
        "2024-02-29": None,
    }
    assert times(list(cases), time_zone=zone) == list(cases.values())
    assert times(["2024-02-29T12:00:00", "x", None], time_zone="UTC") == [NOON, None, None]


@pytest.mark.parametrize(
    ("time_format", "cases"),
    [
        (
            "epoch_s",
            {
                "1700000000": 1_700_000_000_000,
                "1700000000.123999": 1_700_000_000_123,
                "1.7e9": 1_700_000_000_000,
                "-1": -1000,
                "-1.5": -1500,
                "-0.0001": -1,
                "9223372036854775": 9_223_372_036_854_775_000,
                "9223372036854776": None,
                "-9223372036854776": None,
                "2024-02-29T12:00:00Z": None,
                "nan": None,
                "inf": None,
                " 5": None,
                "1_000": None,
                "٥": None,
                "5\n": None,
            },
        ),
        (
            "epoch_ms",
            {
                "1700000000123": 1_700_000_000_123,
                "1.9": 1,
                "-1.1": -2,
                str(INT64_MAX): INT64_MAX,
                str(INT64_MAX + 1): None,
            },
        ),
        (
            "epoch_us",
            {
                "1700000000123999": 1_700_000_000_123,
                "999": 0,
                "-1": -1,
                "-1000": -1,
                "-0.5": -1,
                "1500.7": 1,
            },
        ),
    ],
)
def test_epochs_are_in_the_unit_that_the_mapping_says(
    time_format: str, cases: dict[str, int | None]
) -> None:
    assert times(list(cases), time_format=time_format) == list(cases.values())
    for text, expected in cases.items():
        assert times([text], time_format=time_format) == [expected]


@given(
    st.decimals(-(10**12), 10**12, places=7),
    st.sampled_from([("epoch_s", 1000), ("epoch_ms", 1), ("epoch_us", Decimal("0.001"))]),
)
def test_fractions_of_epochs_are_floored(value: Decimal, unit: tuple[str, Decimal]) -> None:
    expected = int((value * unit[1]).to_integral_value(ROUND_FLOOR))
    assert times([f"{value:f}"], time_format=unit[0]) == [expected]


def test_patterns() -> None:
    apache = "%d/%b/%Y:%H:%M:%S %z"
    assert times(["29/Feb/2024:07:00:00 -0500", "29/Feb/2024", None], time_format=apache) == [
        NOON,
        None,
        None,
    ]
    assert times(["2024-02-29T17:00:00+05:00"], time_format="%Y-%m-%dT%H:%M:%S%:z") == [NOON]
    plain = {"time_format": "%Y-%m-%d %H:%M:%S", "time_zone": "America/New_York"}
    cases = {
        "2024-02-29 07:00:00": NOON,
        "2024-03-10 02:30:00": None,
        "2024-11-03 01:30:00": utc(2024, 11, 3, 5, 30),
        "2024-02-29 07:00:00.5": None,
        "2024-02-30 07:00:00": None,
    }
    assert times(list(cases), **plain) == list(cases.values())
    fraction = {"time_format": "%Y-%m-%d %H:%M:%S%.f", "time_zone": "UTC"}
    assert times(["2024-02-29 12:00:00.1239", "1969-12-31 23:59:59.9999"], **fraction) == [
        NOON + 123,
        -1,
    ]
    assert times(["2024-02-29"], time_format="%Y-%m-%d", time_zone="UTC") == [NOON - 43_200_000]


@pytest.mark.parametrize(
    ("text", "micros_per_unit", "expected"),
    [
        ("0.1", 1_000_000, 100_000),
        ("0.2", 1_000_000, 200_000),
        ("0.3", 1_000_000, 300_000),
        ("1.1", 1_000_000, 1_100_000),
        ("8.41", 1_000_000, 8_410_000),  # 8.41 * 1e6 is 8409999.999999999 in floats
        ("-0.1", 1_000_000, -100_000),
        ("1000000000000000000", 1, 10**18),
        ("1000000000000", 1_000_000, 10**18),
        ("9007199254740993", 1, 9_007_199_254_740_993),  # floats skip it
        (str(INT64_MAX), 1, INT64_MAX),
        (str(-INT64_MAX - 1), 1, -INT64_MAX - 1),
        (str(INT64_MAX + 1), 1, None),
        ("9223372036854.775807", 1_000_000, INT64_MAX),
        ("9223372036854.775808", 1_000_000, None),
        ("199", 10_000, 1_990_000),
        ("2.345", 1_000, 2_345),
        ("1e-6", 1_000_000, 1),
        ("1e-7", 1_000_000, None),
        ("0.0000001", 1_000_000, None),
        ("1.5e3", 1, 1500),
        ("5.0", 1, 5),
        ("0.5", 1, None),
        ("-0", 1, 0),
        ("+5", 1, 5),
        ("0.1" + "0" * 39, 1_000_000, 100_000),
        ("0.1" + "0" * 40, 1_000_000, None),  # too many digits is a failure, not a rounding
        ("1" * 41, 1, None),
        ("1e100", 1, None),
        ("1,5", 1_000_000, None),
        ("1_000", 1, None),
        ("$1", 1, None),
        ("１２", 1, None),
        ("1e5", 1, 100_000),
        ("NaN", 1, None),
        ("Infinity", 1, None),
        (" 1", 1, None),
        ("true", 1, None),
        ("", 1, None),
    ],
)
def test_money_is_exact(text: str, micros_per_unit: int, expected: int | None) -> None:
    assert money([text], micros_per_unit) == [expected]
    assert money(["7", text, None], micros_per_unit)[1:] == [expected, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.0000005", 0), ("0.0000015", 2), ("0.0000025", 2), ("-0.0000015", -2), ("1e-7", 0)],
)
def test_half_even_rounds_fractions_of_a_micro(text: str, expected: int) -> None:
    assert money([text], 1_000_000, "half_even") == [expected]
    assert money([text], 1_000_000, "error") == [None]


def test_many_digits_are_not_rounded_twice() -> None:
    # Just above a half: rounded to 60 digits first, it would be a half, and go to the even 0.
    text = "0.5" + "0" * 38 + "1"
    assert money([text], 1, "half_even") == [1]
    assert money(["9" * 40 + "." + "9" * 40 + "e-40"], (1 << 62) + 1) == [None]


@given(
    st.lists(
        st.one_of(st.none(), st.decimals(allow_nan=False, allow_infinity=False, places=8)),
        max_size=6,
    ),
    st.sampled_from([1, 7, 1_000, 10_000, 1_000_000]),
    st.sampled_from(["error", "half_even"]),
)
def test_money_equals_decimal_arithmetic(
    values: list[Decimal | None], factor: int, rounding: str
) -> None:
    def expected(value: Decimal | None) -> int | None:
        if value is None or len(str(int(abs(value)))) > 40:
            return None
        digits = int(value.scaleb(8)) * factor
        whole, rest = divmod(digits, 10**8)
        if rest and rounding == "error":
            return None
        if 2 * rest > 10**8 or (2 * rest == 10**8 and whole % 2):
            whole += 1
        return whole if -(1 << 63) <= whole < 1 << 63 else None

    texts = [None if value is None else f"{value:f}" for value in values]
    assert money(texts, factor, rounding) == [expected(value) for value in values]


def test_half_even_matches_decimal() -> None:
    texts = [f"{n / 4}" for n in range(-20, 20)]
    expected = [int(Decimal(text).to_integral_value(ROUND_HALF_EVEN)) for text in texts]
    assert money(texts, 1, "half_even") == expected
