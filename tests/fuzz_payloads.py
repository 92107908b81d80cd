"""Payloads for fuzzing: records of real shapes, mutated as bytes and as structures, by seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

MS: Final = 1_772_323_200_000
NOW_MS: Final = MS + 3_600_000

Record = dict[str, Any]

TEXTS: Final = (
    *(
        "",
        " ",
        "a",
        "0",
        "-1",
        "null",
        "true",
        "é",
        "日本",
        "😀",
        "\x00",
        "\x1b[31m",
        "\x7f",
        "\x85",
    ),
    *(
        "\u202e",
        "\ufeff",
        "\ufffd",
        "\ud800",
        "\udfff",
        "\n",
        "\r\n",
        "a\nb",
        '"',
        "\\",
        "'",
        "`",
        "%s",
    ),
    *("../../etc/passwd", "/", "a/b", "a,b", "date=2026-01-01", "hour=99", "..", ".", "CON", "$.x"),
    *("{}", "[]", "[" * 200, '{"id": 5}', '{"id":"\\u0001"}', "a" * 255, "a" * 256, "a" * 257),
    *("é" * 128, "é" * 129, "x" * 10_240, "x" * 32_768, "x" * 32_769, "NaN", "Infinity", "1e400"),
    *("click", "impression", "conversion", "CLICK", "EUR", "eur", "€UR", "EU", "EUR ", "XXX"),
    *(
        "<script>",
        "'; DROP TABLE events; --",
        "[red]x[/red]",
        "A" * 70_000,
        "=1+1",
        "127.0.0.1",
        "::1",
    ),
)
TIMES: Final = (
    *("2026-03-01T00:00:00Z", "2026-03-01 00:00:00Z", "2026-03-01T00:00Z", "2026-03-01t00:00:00z"),
    *("2026-03-01T00:00:00.123456789Z", "2026-03-01T00:00:00+0530", "2026-03-01T00:00:00-23:59"),
    *(
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
    ),
    *(
        "2026-02-30T00:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T00:00:60Z",
        "2026-13-01T00:00:00Z",
    ),
    *(
        "2026-03-01T00:00:00+24:00",
        "2026-03-01T00:00:00+99:99",
        "10000-01-01T00:00:00Z",
        "now",
        "0",
    ),
    *(
        "2026-03-01T00:00:00.1234567890Z",
        "2000-01-01T00:00:00Z",
        "2262-04-12T00:00:00Z",
        "-1",
        "2026",
    ),
    *(
        " 2026-03-01T00:00:00Z",
        "2026-03-01T00:00:00Z\n",
        "２０２６-03-01T00:00:00Z",
        "1677-09-21T00:00:00Z",
    ),
)
NUMBERS: Final = (
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "1.5",
        "1e3",
        "1E+3",
        "1e-3",
        "1e400",
        "-1e400",
        "1e-400",
        "1.0",
    ),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "1" + "0" * 400,
        "1e18",
    ),
    *(
        "10000000000000000",
        "10000000000000001",
        "-10000000000000001",
        "9" * 5_000,
        "1e99999999999999999999",
    ),
    *(
        "0.1",
        "0." + "0" * 60 + "1",
        "1772323200000",
        "1772323200",
        "1772323200.123",
        "1e16",
        "1e17",
    ),
    *(
        "123456789012345678901234567890.5",
        "5e-324",
        "1.7976931348623157e309",
        "00",
        "01",
        "+1",
        ".5",
        "1.",
    ),
)
RAW: Final = (
    *("null", "true", "false", "[]", "{}", "[1,2,3]", '{"a":{"b":[null]}}', "[" * 99 + "]" * 99),
    *(
        "[" * 101 + "]" * 101,
        '{"a":' * 60 + "1" + "}" * 60,
        "NaN",
        "-Infinity",
        "undefined",
        "'x'",
        "0x1",
    ),
    *(
        r'"\ud800"',
        r'"\udc00\ud800"',
        r'"\ud83d\ude00"',
        r'"\u0000"',
        r'"\u001b[2J"',
        r'"\/"',
        r'"\x41"',
    ),
    *('"\t"', '"unclosed', '{"a":1', "[1,", '{"a":1,}', "/*c*/1", '"é"', r'"\u00e9"', r'"\uZZZZ"'),
)
TOKENS: Final = (
    *(sign.encode() for sign in '"\\{}[]:,\t\r\n \x00\x0b\x0c\x1f\x7f\u2028\ufeff'),
    *(b'":', b'","', b"\\u", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x85", b"\xc2\x9b"),
)

FIELDS: Final = (
    *("event_id", "event_type", "occurred_at", "received_at", "advertiser_id", "campaign_id"),
    *("ad_group_id", "creative_id", "placement_id", "publisher_id", "impression_id", "click_id"),
    *("user_id", "ip", "user_agent", "url", "country", "cost_micros", "revenue_micros", "currency"),
    *(
        "schema_version",
        "extra",
        "source",
        "position",
        "x",
        "",
        " ",
        "\ud800",
        "a" * 100,
        "é",
        "__proto__",
    ),
)


def own_record(draw: random.Random) -> Record:
    """A record in the schema's own names."""
    number = draw.randrange(1_000_000)
    record: Record = {
        "event_id": f"e{number}",
        "event_type": draw.choice(("impression", "click", "conversion")),
        "occurred_at": f"2026-03-01T00:{draw.randrange(60):02}:{draw.randrange(60):02}.5Z",
        "advertiser_id": f"adv-{number % 7}",
        "campaign_id": f"c{number % 5}",
        "user_id": f"u{number % 90}",
        "ip": f"198.51.100.{number % 256}",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
        "url": "https://shop.example/?q=%20a",
        "country": "DE",
    }
    if draw.random() < 0.5:
        record |= {"cost_micros": draw.randrange(10_000_000), "currency": "EUR"}
    if draw.random() < 0.3:
        record["received_at"] = "2026-03-01T00:59:59Z"
    if draw.random() < 0.3:
        record["site"] = {"page": number, "tags": ["a", None, True]}
    return record


def talkingdata_record(draw: random.Random) -> Record:
    """A record as of ``pipelines/mappings/talkingdata.toml``."""
    return {
        "ip": str(draw.randrange(300_000)),
        "app": draw.randrange(40),
        "device": 1,
        "os": draw.randrange(20),
        "channel": draw.randrange(500),
        "click_time": f"2026-03-01 00:{draw.randrange(60):02}:{draw.randrange(60):02}",
        "is_attributed": draw.choice((0, 0, 0, 1)),
    }


def nested_record(draw: random.Random) -> Record:
    """A record as of ``NESTED_MAPPING``."""
    return {
        "kind": draw.choice(("C", "CL", "I")),
        "id": f"n{draw.randrange(1_000_000)}",
        "ts": MS + draw.randrange(3_600_000),
        "seen": f"01/03/2026 01:{draw.randrange(60):02}:00",
        "account": {"id": draw.randrange(9), "name": "x"},
        "meta": json.dumps({"campaign": {"id": draw.randrange(5)}}),
        "price": f"{draw.randrange(100)}.{draw.randrange(1000):03}",
        "geo": draw.choice(("DE", "", None)),
        "addr": draw.choice(("198.51.100.7", "2001:db8::1", "::ffff:1.2.3.4", "2002:c633:6401::")),
        "who": draw.choice(("u1", "u2", 7, None)),
    }


NESTED_MAPPING: Final = """
[fields]
event_id = "id"
advertiser_id = { from = "account", path = "$.id" }
campaign_id = { from = "meta", path = "$.campaign.id" }
creative_id = { from = "meta", path = "$..id" }
country = { from = "geo", default = "ZZ" }
currency = { constant = "EUR" }
user_agent = "ua"
ip = "addr"
user_id = "who"
[fields.occurred_at]
from = "ts"
time_format = "epoch_ms"
[fields.received_at]
from = "seen"
time_format = "%d/%m/%Y %H:%M:%S%.f"
time_zone = "Europe/Berlin"
[fields.cost_micros]
from = "price"
micros_per_unit = 1_000_000
rounding = "half_even"
[[events]]
when = { field = "kind", equals = ["C", "CL"] }
fields.event_type = { constant = "click" }
[[events]]
when = { field = "kind", equals = ["I", "CL"] }
fields.event_type = { constant = "impression" }
"""


def payloads(
    seed: int, count: int, record: Callable[[random.Random], Record] = own_record
) -> Iterator[bytes]:
    """``count`` payloads without line feeds; the same for the same seed."""
    draw = random.Random(seed)
    before = b"{}"
    for _ in range(count):
        made = record(draw)
        data = _structured(draw, made) if draw.random() < 0.7 else _dumped(draw, made)
        if draw.random() < 0.35:
            data = _mutated(draw, data, before)
        before = data
        yield data.replace(b"\n", b"\t" if draw.random() < 0.5 else b"\\n")


def _dumped(draw: random.Random, record: Any) -> bytes:
    text = json.dumps(
        record,
        ensure_ascii=draw.random() < 0.5,
        separators=draw.choice(((",", ":"), (", ", ": "), (" ,\t", " :\r"))),
    )
    return text.encode("utf-8", "surrogatepass")


def _structured(draw: random.Random, record: Record) -> bytes:
    """Values replaced, fields added, left out, repeated or renamed."""
    parts = {json.dumps(name): _dumped(draw, value) for name, value in record.items()}
    items = [(name.encode(), value) for name, value in parts.items()]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(items) + 1)
        name = draw.choice((*record, *FIELDS)) if at == len(items) else json.loads(items[at][0])
        item = (_dumped(draw, name), _odd_value(draw, name))
        what = draw.random()
        if what < 0.7:
            items[at : at + 1] = [item]
        elif what < 0.85:
            items.insert(draw.randrange(len(items) + 1), item)
        elif at < len(items):
            del items[at]
    if draw.random() < 0.002:
        items += [(b'"k%d"' % n, b"1") for n in range(draw.choice((900, 1_001, 3_000)))]
    colon = draw.choice((b":", b":", b": ", b" : "))
    return b"{" + b",".join(name + colon + value for name, value in items) + b"}"


def _odd_value(draw: random.Random, name: str) -> bytes:
    kind = draw.random()
    if kind < 0.1:
        return draw.choice(RAW).encode("utf-8", "surrogatepass")
    if kind < 0.2 or (name.endswith("micros") and kind < 0.7):
        number = draw.choice(NUMBERS)
        return number.encode() if draw.random() < 0.5 else b'"' + number.encode() + b'"'
    times = name.endswith("_at") or name in ("click_time", "seen")
    text = draw.choice(TIMES if times and kind < 0.8 else TEXTS)
    if draw.random() < 0.1:
        text += draw.choice(TEXTS)
    return _dumped(draw, text)


def _mutated(draw: random.Random, data: bytes, before: bytes) -> bytes:
    """Bytes flipped, cut, doubled, spliced or put in."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 2, 8, 40)))
        what = draw.randrange(7)
        if what == 0:
            data = data[:at] + draw.randbytes(to - at) + data[to:]
        elif what == 1:
            data = data[:at] + data[to:]
        elif what == 2:
            data = data[:to] + data[at:]
        elif what == 3:
            data = data[:at] + before[draw.randrange(len(before) + 1) :]
        elif what == 4:
            data = data[:at]
        else:
            data = data[:at] + draw.choice(TOKENS) + data[at:]
    return data
