"""JSON lines: the values, the rejections, and that a line's outcome depends on that line alone."""

import json
import random
import re
from decimal import Decimal

import polars as pl
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adtally.io.limits import MAX_DEPTH, Limits
from adtally.transforms import json_lines
from adtally.transforms.json_lines import ParsedLines, parse_lines
from adtally.transforms.json_rows import decode_rows, is_json, number_text

FIELDS = ["a", "cost", "campaign_id", "a_rather_long_field_name", "é"]
UNKNOWN = ["b", "x_campaign_id", "ampaign_id", "another_rather_long_field_name", "ü", "", "q r"]

Outcome = tuple[str, object, object]


def outcomes(parsed: ParsedLines) -> list[tuple[int, Outcome, int]]:
    """(offset, outcome, hash) per line; an outcome is what must not depend on the neighbours."""
    rows = parsed.columns.to_pylist()
    found = [
        (offset, ("record", tuple(row.values()), extra), digest)
        for offset, row, extra, digest in zip(
            parsed.offsets.to_pylist(),
            rows,
            parsed.extra.to_pylist(),
            parsed.content_hash.to_pylist(),
            strict=True,
        )
    ]
    assert [offset for offset, _, _ in found] == sorted(offset for offset, _, _ in found)
    found += [
        (bad.offset, (bad.error_type, bad.message, bad.payload), 0) for bad in parsed.rejected
    ]
    return sorted(found, key=lambda item: item[0])


def alone(line: bytes, fields: list[str] = FIELDS) -> Outcome | None:
    found = outcomes(parse_lines(line, fields))
    assert len(found) <= 1, found
    return found[0][1] if found else None


def values(line: bytes, fields: list[str]) -> tuple[object, ...]:
    kind, found, extra = alone(line, fields) or ("blank", (), None)
    assert kind == "record", (kind, found)
    return (*found, extra)  # type: ignore[misc]


# The reference: the standard library, one line at a time.


class Literal(str):
    """A number as it was written."""


class Rejected(ValueError):
    pass


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def load(text: str) -> object:
    pairs = json.loads(
        text, parse_float=Literal, parse_int=Literal, parse_constant=refuse, object_pairs_hook=dict
    )
    return whole(pairs)


def whole(value: object) -> object:
    """Half surrogate pairs replaced, as the parser documents."""
    if isinstance(value, Literal):
        return ("number", str(value))
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return value


def depth(text: str) -> int:
    level = deepest = 0
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text, re.DOTALL):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token, 0)
        deepest = max(level, deepest)
    return deepest


def plain(literal: str) -> str:
    if re.fullmatch(r"-?\d+", literal):
        return "0" if literal == "-0" else literal
    value = Decimal(literal)
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if value else ("-0" if value.is_signed() else "0")


def reference(line: bytes, fields: list[str]) -> tuple[str, tuple[object, ...], object] | str:
    """(record, values, extra) or the error type."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "invalid_utf8"
    if depth(text) > MAX_DEPTH:
        return "too_deep"
    try:
        found = load(text)
    except ValueError:
        return "invalid_json"
    if not isinstance(found, dict):
        return "not_an_object"
    row = tuple(reference_text(found.get(field)) for field in fields)
    extra = {key: value for key, value in found.items() if key not in fields}
    return "record", row, extra or None


def reference_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return plain(value[1])
    return value


def comparable(outcome: Outcome) -> object:
    """An outcome in the reference's terms: nested texts parsed again, messages left out."""
    kind, row, extra = outcome
    if kind != "record":
        return kind
    assert isinstance(row, tuple)
    assert extra is None or isinstance(extra, str)
    return "record", row, load(extra) if extra else None


def assert_as_reference(line: bytes) -> None:
    found, wanted = alone(line), reference(line, FIELDS)
    if found is None:
        assert not line.strip()
        return
    got = comparable(found)
    if isinstance(wanted, str) or isinstance(got, str):
        assert got == wanted, (line, found)
        return
    assert got[2] == wanted[2], line  # type: ignore[index]
    for text, value in zip(got[1], wanted[1], strict=True):  # type: ignore[index]
        if isinstance(value, dict | list):
            assert load(text) == value
        elif text != value:
            assert "E" in text and Decimal(text) == Decimal(value), line  # type: ignore[arg-type]


# Random lines: objects in many notations, then damaged.

NUMBERS = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9]\d{0,45})(\.\d{1,25})?([eE][+-]?\d{1,3})?", fullmatch=True),
    st.sampled_from(["0", "-0", "-0.0", "0.10", "1e400", "1E-400", "9007199254740993", "1.0"]),
).filter(lambda text: re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", text))

RAW_STRINGS = st.sampled_from(
    [
        r"\ud800", r"\udc00", r"\ud83d\ude00", r"\ude00\ud83d", r"\\ud800", r"\\\ud800", r"\u0000",
        r"\"a\":1", r"\"a\":null", r":null", r":1", ":", r"\\", r"\/", r"\n\t\b\f\r", "null",
        "[1, 2]", "{x}", " : ", "é\U0001f600", "\x7f", "a\\u00e9", '\\"', "x" * 40, '","b\\":1',
    ]
)  # fmt: skip
STRINGS = st.one_of(
    st.text(max_size=12).map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
    st.lists(RAW_STRINGS, max_size=3).map(lambda parts: '"' + "".join(parts) + '"'),
)
SPACES = st.sampled_from(["", "", "", " ", "  ", "\t"])
SCALARS = st.one_of(STRINGS, NUMBERS, st.sampled_from(["true", "false", "null"]))


@st.composite
def containers(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    parts = draw(st.lists(items, max_size=3))
    space = draw(SPACES)
    if draw(st.booleans()):
        return "[" + f"{space},{space}".join(parts) + space + "]"
    pairs = [f"{draw(STRINGS)}{space}:{draw(SPACES)}{part}" for part in parts]
    return "{" + f"{space},".join(pairs) + space + "}"


VALUES = st.one_of(SCALARS, SCALARS, SCALARS, st.recursive(SCALARS, containers, max_leaves=4))
KEYS = st.one_of(
    *[st.sampled_from([json.dumps(name, ensure_ascii=False) for name in FIELDS])] * 3,
    st.sampled_from([json.dumps(name, ensure_ascii=False) for name in UNKNOWN]),
    st.sampled_from([json.dumps(name) for name in FIELDS + UNKNOWN]),
    st.sampled_from([r'"\u0061"', r'"\"a"', r'"b\":"', '":"', '"n"']),
    STRINGS,
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """An object in one of many notations; a third of them have each key once."""
    style = draw(st.sampled_from(["compact", "spaced", "wild"]))
    keys = draw(st.lists(KEYS, max_size=5, unique=draw(st.booleans())))
    scalars = VALUES if style == "wild" else SCALARS
    parts = []
    for key in keys:
        before, after = ("", " ") if style == "spaced" else ("", "")
        if style == "wild":
            before, after = draw(SPACES), draw(SPACES)
        parts.append(f"{key}{before}:{after}{draw(scalars)}")
    comma = {"compact": ",", "spaced": ", "}.get(style) or draw(SPACES) + "," + draw(SPACES)
    text = "{" + comma.join(parts) + "}"
    if style == "wild":
        text = draw(SPACES) + text + draw(SPACES)
    return text.encode("utf-8", "surrogatepass").replace(b"\n", b"")


TOKENS = st.sampled_from(
    [b'"', b":", b",", b"{", b"}", b"[", b"]", b"\\", b"\xff", b"\x00", b"\xed\xa0\x80", b"\r",
     b"null", b"NaN", b"-", b".", b"e", b"0", b" ", b"\t", b'":', b'"a":1', b'"a":null,', b"\\u",
     b"\xef\xbb\xbf", b'{"a":1}', b"tru", b"\x0c", b"\x7f", b"/*x*/", b"'"]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    line = draw(objects())
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(line)))
        kind = draw(st.sampled_from(["insert", "cut", "drop", "flip", "swap"]))
        if kind == "insert":
            line = line[:at] + draw(TOKENS) + line[at:]
        elif kind == "cut":
            line = line[:at]
        elif kind == "drop":
            line = line[:at] + line[at + 1 :]
        elif kind == "flip" and at < len(line):
            line = line[:at] + bytes([line[at] ^ (1 << draw(st.integers(0, 7)))]) + line[at + 1 :]
        else:
            line = line[at:] + line[:at]
    return line.replace(b"\n", b"")


LINES = st.one_of(
    objects(), objects(), damaged(), SCALARS.map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), SPACES.map(str.encode),
)  # fmt: skip


@settings(max_examples=400)
@given(LINES.map(lambda line: line.rstrip(b"\r")))
@example(b'{"a":1}\x0c')
@example(rb'{"\"a":null}')
@example(rb'{"a":"\",\"cost\":null"}')
def test_agrees_with_the_reference(line: bytes) -> None:
    assert_as_reference(line)


@settings(max_examples=250)
@given(st.lists(LINES, max_size=8), st.randoms(use_true_random=False), st.booleans())
def test_a_line_depends_on_itself_alone(
    lines: list[bytes], chance: random.Random, last_end: bool
) -> None:
    ends = [chance.choice([b"\n", b"\r\n"]) for _ in lines]
    if ends and not last_end:
        ends[-1] = b""
    block = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    expected, offset, blank = [], 0, 0
    for line, end in zip(lines, ends, strict=True):
        found = outcomes(parse_lines(line + end, FIELDS))
        expected += [(offset + at, outcome, digest) for at, outcome, digest in found]
        blank += not found and bool(line + end)
        offset += len(line + end)
    parsed = parse_lines(block, FIELDS)
    assert outcomes(parsed) == expected
    assert parsed.blank_lines == blank
    for at, outcome, digest in expected:
        if outcome[0] == "record":
            line = block[at:].split(b"\n")[0]
            line = line.removesuffix(b"\r")
            assert xxhash.xxh3_64_intdigest(line) == digest % 2**64


@settings(max_examples=300)
@given(LINES)
def test_both_decoders_give_the_same(line: bytes) -> None:
    """What Polars and the scan give is what decoding the line alone gives."""
    line = line.removesuffix(b"\r")
    rows = decode_rows([line], FIELDS)
    found = alone(line)
    if found is not None and found[0] == "record":
        assert (rows.columns.row(0), rows.extra[0]) == found[1:]
    elif found is not None:
        assert [(why.error_type, why.message) for _, why in rows.rejected] == [found[:2]]


@settings(max_examples=300)
@given(damaged())
def test_polars_accepts_only_json(line: bytes) -> None:
    """The fast path takes Polars' word that a line is JSON; it never accepts more than msgspec."""
    if rb"\u" in line or line[:1] != b"{" or line.count(b"[") + line.count(b"{") > 20:
        return
    try:
        pl.read_ndjson(line, schema={"a": pl.String})
    except pl.exceptions.PolarsError:
        return
    assert is_json(line)


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("0.1", "0.1"), ("1.10", "1.1"), ("1.0", "1"), ("-0.0", "-0"), ("-0", "0"),
        ("1e5", "100000"),
        ("1E-7", "0.0000001"), ("18446744073709551616", "18446744073709551616"),
        ("9" * 60, "9" * 60),
        ("0.1234567890123456789", "0.1234567890123456789"), ("1e400", "1E+400"), ("0e9", "0"),
        ("5.0000000000000001", "5.0000000000000001"), ("1.50e1", "15"),
        ("9" * 9999, "9" * 9999),
        ("1e99999999999999999999", "1e99999999999999999999"), ("100", "100"), ("100.0", "100"),
        ("123456789012.345", "123456789012.345"), ("0.00", "0"), ("1e-30", "0." + "0" * 29 + "1"),
    ],
)  # fmt: skip
def test_numbers_keep_their_value(literal: str, text: str) -> None:
    assert number_text(literal) == text
    assert values(b'{"a":%s}' % literal.encode(), ["a"]) == (text, None)
    assert values(b'{"a":%s,"q":{"r":[]}}' % literal.encode(), ["a"]) == (text, '{"q":{"r":[]}}')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (rb'{"a":1,"a":"x"}', ("x", None)),
        (rb'{"a":1,"a":null}', (None, None)),
        (rb'{"a":null,"a":1}', ("1", None)),
        (rb'{"a":null,"a":null}', (None, None)),
        (rb'{"b":1,"a":2,"b":2}', ("2", '{"b":2}')),
        (rb'{"a":{"x": [1.50, 2 ]}}', ('{"x":[1.50,2]}', None)),
        (rb'{"b":1.50,"a":true,"c":{"d": 1.0}}', ("true", '{"b":1.50,"c":{"d":1.0}}')),
        (rb'{"b":null,"a":false}', ("false", '{"b":null}')),
        (rb'{"b":":null","a":":null"}', (":null", '{"b":":null"}')),
        (rb'{"b":"\"a\":1"}', (None, r'{"b":"\"a\":1"}')),
        (rb'{"a":"\ud83d"}', ("\ufffd", None)),
        (rb'{"a":"\ud83d\ude00"}', ("\U0001f600", None)),
        (rb'{"\u0061":"\u0000x"}', ("\0x", None)),
        (rb"{}", (None, None)),
        (b' {"a" : 1 }\t', ("1", None)),
    ],
)
def test_values(line: bytes, expected: tuple[object, ...]) -> None:
    assert values(line, ["a"]) == expected


@pytest.mark.parametrize(
    ("line", "error_type", "message"),
    [
        (b"null", "not_an_object", "null"),
        (b"[1]", "not_an_object", "an array"),
        (b'"x"', "not_an_object", "a string"),
        (b"-1", "not_an_object", "a number"),
        (b'{"a":NaN}', "invalid_json", "byte 5"),
        (b'{"a":1', "invalid_json", "truncated"),
        (b'{"a":1}{"a":2}', "invalid_json", "trailing"),
        (b'{"a":"\t"}', "invalid_json", "byte 6"),
        (b"\0\0\0", "invalid_json", "byte 0"),
        (b'{"a":"\xff"}', "invalid_utf8", "byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8", "byte 6"),
        (b'\xef\xbb\xbf{"a":1}', "invalid_json", "byte 0"),
        (b"[" * 100_000, "too_deep", "deeper"),
        (b'{"a":' * 100_000 + b"}" * 100_000, "too_deep", "deeper"),
        (b'{"a":"' + rb"\"" * 100_000, "invalid_json", "truncated"),
    ],
)
def test_rejections(line: bytes, error_type: str, message: str) -> None:
    parsed = parse_lines(b'{"a":1}\n' + line + b'\n{"a":2}\n', ["a"])
    assert parsed.columns["a"].to_pylist() == ["1", "2"]
    (bad,) = parsed.rejected
    assert (bad.offset, bad.error_type, bad.payload) == (8, error_type, line)
    assert message in bad.message


def test_nesting_to_the_limit_is_accepted() -> None:
    inner = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert values(b'{"a":%s}' % inner, ["a"]) == (inner.decode(), None)
    assert alone(b'{"a":[%s]}' % inner, ["a"])[0] == "too_deep"  # type: ignore[index]


def test_byte_order_mark_only_at_a_files_start() -> None:
    block = b'\xef\xbb\xbf{"a":1}\n'
    parsed = parse_lines(block, ["a"], first=True)
    assert (parsed.columns["a"].to_pylist(), parsed.offsets.to_pylist()) == (["1"], [3])
    assert parse_lines(block, ["a"]).rejected[0].error_type == "invalid_json"


@pytest.mark.parametrize("block", [b"", b"\n", b"\r\n \n\t\n", b"\xef\xbb\xbf"])
def test_blocks_without_records(block: bytes) -> None:
    parsed = parse_lines(block, ["a"], first=True)
    assert (parsed.columns.num_rows, parsed.rejected) == (0, [])
    assert parsed.columns.column_names == ["a"]
    assert parsed.blank_lines == block.count(b"\n")


def test_very_long_lines() -> None:
    long = b'{"a":"' + b"x" * 10_000_000 + b'","b":"' + b"y" * 5_000_000 + b'"}'
    parsed = parse_lines(
        b'{"a":1,"b":2}\n' + long + b"\n" + long[:-1] + b'\n{"a":2}',
        ["a"],
        limits=Limits(record_bytes=16 << 20),
    )
    assert [len(text) for text in parsed.columns["a"].to_pylist()] == [1, 10_000_000, 1]
    assert [len(text or "") for text in parsed.extra.to_pylist()] == [7, 5_000_008, 0]
    assert [len(bad.payload) for bad in parsed.rejected] == [len(long) - 1]


def test_buffers_other_than_bytes() -> None:
    import pyarrow as pa

    for block in (memoryview(b'{"a":1}\n'), pa.py_buffer(b'{"a":1}\n')):
        assert parse_lines(block, ["a"]).columns["a"].to_pylist() == ["1"]


@pytest.mark.parametrize("fields", [[], ["a", "a"]])
def test_fields_are_requested_once(fields: list[str]) -> None:
    with pytest.raises(ValueError, match="request each once"):
        parse_lines(b"", fields)


def test_refused_lines_beyond_the_reads_are_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often Polars refuses, the outcome is the same."""
    lines = [b'{"a":"%d","b":"%d"}' % (index, index) for index in range(50)]
    wanted = outcomes(parse_lines(b"\n".join(lines), ["a"]))
    real = pl.read_ndjson

    def refuse_some(source: bytes, **options: object) -> pl.DataFrame:
        if b'"7"' in source or b'"30"' in source:
            raise pl.exceptions.ComputeError("refused")
        return real(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(json_lines.pl, "read_ndjson", refuse_some)
    assert outcomes(parse_lines(b"\n".join(lines), ["a"])) == wanted
    monkeypatch.setattr(json_lines, "_MAX_READS", 3)
    assert outcomes(parse_lines(b"\n".join(lines), ["a"])) == wanted


@pytest.mark.parametrize("length", range(1, 66))
def test_names_of_any_length_are_told_apart(length: int) -> None:
    """Nulls and unknown fields are recognised by their whole name, eight bytes at a time."""
    name = "".join(chr(ord("a") + index % 26) for index in range(length))
    others = ["z" + name, name + "z", name[1:] + "-", name.upper()]
    others += [name[:at] + "_" + name[at + 1 :] for at in range(0, length, 5)]
    lines = [json.dumps({name: None, "k": 1})] + [json.dumps({other: None}) for other in others]
    block = "\n".join(lines).encode()
    parsed = parse_lines(block, [name, "k"])
    extras = [None] + [json.dumps({other: None}, separators=(",", ":")) for other in others]
    assert parsed.extra.to_pylist() == extras
    as_unknown = parse_lines(block, ["k"]).extra.to_pylist()
    assert as_unknown == [f'{{"{name}":null}}', *extras[1:]]


def test_unknown_fields_appearing_late_are_kept() -> None:
    """The first lines are only a hint of which unknown fields to expect."""
    lines = [b'{"a":%d,"u":"%d"}' % (index, index) for index in range(40)]
    lines += [b'{"late":[1],"a":1}', b'{"u":"x","late":2,"u":"y"}', b'{"u":"x\\n","a":1}']
    parsed = parse_lines(b"\n".join(lines), ["a"])
    assert parsed.extra.to_pylist()[39:] == [
        '{"u":"39"}', '{"late":[1]}', '{"u":"y","late":2}', '{"u":"x\\n"}',
    ]  # fmt: skip
