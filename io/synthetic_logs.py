"""Made-up events as hourly logs, with malformed records among them, and the truth beside."""

from __future__ import annotations

import datetime
import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import zstandard

from adtally.io import schema
from adtally.io.synthetic import (
    COMPRESSIONS,
    CURRENCIES,
    HOUR_MS,
    MINUTE_MS,
    GenerateConfig,
    make_events,
)

GZIP_LEVEL: Final = 6
_TYPES: Final = list(schema.EVENT_TYPES)


def _without(line: bytes, name: bytes) -> bytes:
    """A record without one of its plain fields."""
    return re.sub(rb'"%s":("[^"]*"|[^,}]*),' % name, b"", line)


# How a good record becomes one that cannot be decoded.
MALFORMED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "truncated": lambda line: line[: len(line) // 2],
    "garbage": lambda line: b"<html>502 Bad Gateway</html>",
    "no_advertiser": lambda line: line.replace(b'"advertiser_id"', b'"advertiser_xx"'),
    "bad_time": lambda line: line.replace(b'"occurred_at":', b'"occurred_at":"soon","was":'),
    "unknown_type": lambda line: line.replace(b'"event_type":"', b'"event_type":"x'),
    "money_text": lambda line: (
        _without(line, b"revenue_micros")[:-1] + b',"revenue_micros":"a lot"}'
    ),
    "money_without_currency": lambda line: (
        _without(_without(line, b"cost_micros"), b"currency")[:-1] + b',"cost_micros":5}'
    ),
    "year_1970": lambda line: (
        _without(line, b"occurred_at")[:-1] + b',"occurred_at":"1970-01-01T00:00:01.000Z"}'
    ),
    "year_2090": lambda line: (
        _without(line, b"occurred_at")[:-1] + b',"occurred_at":"2090-01-01T00:00:00.000Z"}'
    ),
    "invalid_utf8": lambda line: line.replace(b'"country":"', b'"country":"\xff\xfe'),
    "array": lambda line: b"[" + line + b"]",
    "empty_object": lambda line: b"{}",
}
_EPOCH_YEARS: Final = {"year_1970": 1_000, "year_2090": 3_786_912_000_000}


def generate(
    config: GenerateConfig, on_file: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write ``logs/YYYY-MM-DD/HH.jsonl.gz`` by hour of arrival, and ``truth/``.

    Args:
        config: what to make up.
        on_file: called with (files written, files in all).

    Returns:
        The truth, as written to ``truth/truth.json``: planned, not read back.
    """
    output = Path(config.output)
    events = make_events(config)
    lines = [line.encode() for line in _lines(config, events).to_list()]
    arrived = events["received_at"].to_list()
    kinds = _malformed_plan(config, len(lines))
    files = _assigned(config, lines, arrived, kinds)
    for done, (path, content) in enumerate(files.items(), start=1):
        target = output / "logs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_compressed(b"\n".join(content) + b"\n", config.compression))
        if on_file is not None:
            on_file(done, len(files))
    truth = _truth(config, events, kinds)
    (output / "truth").mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(truth), indent=2)
    (output / "truth" / "truth.json").write_bytes(encoded + b"\n")
    _marked(events).write_parquet(output / "truth" / "events.parquet")
    if config.time_format != "rfc3339":
        (output / "mapping.toml").write_text(_mapping(config.time_format), encoding="utf-8")
    return truth


def _malformed_plan(config: GenerateConfig, lines: int) -> dict[int, str]:
    """Which records are followed by a malformed one, and of which kind."""
    rng = np.random.default_rng([config.seed, 1])
    count = min(lines, round(lines * config.malformed_ratio))
    rows = sorted(rng.choice(lines, count, replace=False).tolist())
    names = list(MALFORMED)
    return {row: names[index % len(names)] for index, row in enumerate(rows)}


def _assigned(
    config: GenerateConfig, lines: list[bytes], arrived: list[int], kinds: dict[int, str]
) -> dict[str, list[bytes]]:
    """File name to its lines."""
    ending = ".jsonl" + COMPRESSIONS[config.compression]
    files: dict[str, list[bytes]] = {}
    names: dict[int, str] = {}
    for row, (line, at) in enumerate(zip(lines, arrived, strict=True)):
        slot = at * config.files_per_hour // HOUR_MS
        if slot not in names:
            hour = datetime.datetime.fromtimestamp(at // HOUR_MS * 3600, datetime.UTC)
            part = f"-{slot % config.files_per_hour:04d}" if config.files_per_hour > 1 else ""
            names[slot] = f"{hour:%Y-%m-%d}/{hour:%H}{part}{ending}"
        target = files.setdefault(names[slot], [])
        target.append(line)
        if row in kinds:
            target.append(_broken(config, line, kinds[row]))
    return files


def _broken(config: GenerateConfig, line: bytes, kind: str) -> bytes:
    if kind in _EPOCH_YEARS and config.time_format != "rfc3339":
        unit = 1000 if config.time_format == "epoch_s" else 1
        return _without(line, b"occurred_at")[:-1] + b',"occurred_at":%d}' % (
            _EPOCH_YEARS[kind] // unit
        )
    return MALFORMED[kind](line)


def _compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, GZIP_LEVEL, mtime=0)
    return zstandard.compress(data) if compression == "zstd" else data


def fields(events: pl.DataFrame) -> pl.DataFrame:
    """Events in the schema's names; times in milliseconds."""
    advertiser = pl.format("adv-{}", pl.col("advertiser").cast(pl.String).str.zfill(5))
    place = pl.col("place").cast(pl.String)
    money = (pl.col("cost") != 0) | (pl.col("revenue") != 0)
    currency = (pl.col("advertiser") % len(CURRENCIES)).replace_strict(dict(enumerate(CURRENCIES)))
    address = pl.col("address")
    return events.select(
        "event_id",
        pl.col("type").replace_strict(dict(enumerate(_TYPES))).alias("event_type"),
        "occurred_at",
        "received_at",
        advertiser.alias("advertiser_id"),
        pl.format("c{}", pl.col("place") // 12).alias("campaign_id"),
        pl.format("g{}", pl.col("place") // 4).alias("ad_group_id"),
        pl.format("k{}", place).alias("creative_id"),
        pl.format("p{}", (pl.col("user") + pl.col("place")) % 40).alias("placement_id"),
        pl.format("pub{}", (pl.col("user") * 3) % 25).alias("publisher_id"),
        "impression_id",
        "click_id",
        pl.format("u{}", "user").alias("user_id"),
        pl.format(
            "{}.{}.{}.{}",
            10 + address // (1 << 24) % 200,
            address // (1 << 16) % 256,
            address // 256 % 256,
            address % 256,
        ).alias("ip"),
        "user_agent",
        pl.format("https://shop.example/{}", "place").alias("url"),
        "country",
        pl.when(money).then("cost").alias("cost_micros"),
        pl.when(pl.col("revenue") != 0).then("revenue").alias("revenue_micros"),
        pl.when(money).then(currency).alias("currency"),
        pl.lit(schema.SCHEMA_VERSION).alias("schema_version"),
        "kind",
    )


def _lines(config: GenerateConfig, events: pl.DataFrame) -> pl.Series:
    """One JSON object a record; fields that are null are left out."""
    frame = fields(events).with_row_index("row")
    digest = pl.col("row").cast(pl.Int64) * 2_654_435_761 % 1_000_003
    as_text = digest % 100 == 7  # numbers as strings, as some senders have it
    pieces = [_time(config, name) for name in ("occurred_at", "received_at")]
    for name in frame.columns:
        if name in ("row", "kind", "occurred_at", "received_at"):
            continue
        if name in ("cost_micros", "revenue_micros"):
            text, plain = f'"{name}":"{{}}",', f'"{name}":{{}},'
            piece = pl.when(as_text).then(pl.format(text, name)).otherwise(pl.format(plain, name))
        else:
            piece = pl.format(f'"{name}":"{{}}",', name)
        pieces.append(piece.fill_null(""))
    unknown = (
        pl.when(digest % 50 == 3)
        .then(pl.lit('"sdk":{"name":"web","v":[1,2]},'))
        .otherwise(pl.lit(""))
    )
    body = pl.concat_str(*pieces, unknown)
    return frame.select(pl.concat_str(pl.lit("{"), body.str.strip_chars_end(","), pl.lit("}")))[
        :, 0
    ]


def _time(config: GenerateConfig, name: str) -> pl.Expr:
    if config.time_format == "epoch_ms":
        return pl.format(f'"{name}":{{}},', name)
    if config.time_format == "epoch_s":
        fraction = (pl.col(name) % 1000).cast(pl.String).str.zfill(3)
        return pl.format(f'"{name}":{{}}.{{}},', pl.col(name) // 1000, fraction)
    text = pl.from_epoch(name, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    return pl.format(f'"{name}":"{{}}",', text)


def _mapping(time_format: str) -> str:
    rules = [f'{name} = "{name}"' for name in schema.DECODED_FIELDS if not name.endswith("_at")]
    times = [
        f'[fields.{name}]\nfrom = "{name}"\ntime_format = "{time_format}"'
        for name in ("occurred_at", "received_at")
    ]
    return "\n".join(["[fields]", *rules, "", *times, ""])


def _marked(events: pl.DataFrame) -> pl.DataFrame:
    """The fields, with what is true of each record."""
    identity = ["advertiser_id", "event_type", "event_id", "minute"]
    frame = fields(events).with_columns(
        (pl.col("occurred_at") // MINUTE_MS * MINUTE_MS).alias("minute")
    )
    late = pl.col("received_at") > pl.col("minute") + MINUTE_MS + HOUR_MS
    frame = frame.with_columns(late.alias("late"))
    copies = pl.col("late").not_().sum().over(identity)
    return frame.with_columns(copies.alias("copies_on_time"))


def _truth(config: GenerateConfig, events: pl.DataFrame, kinds: dict[int, str]) -> dict[str, Any]:
    marked = _marked(events)
    on_time = marked.filter(~pl.col("late"))
    distinct = on_time.select("advertiser_id", "event_type", "event_id", "minute").n_unique()
    bots = marked.filter(pl.col("kind") == "bot")
    return {
        "config": asdict(config) | {"output": ""},
        "records": events.height + len(kinds),
        "malformed": len(kinds),
        "malformed_by_kind": {
            name: sum(kind == name for kind in kinds.values()) for name in MALFORMED
        },
        "events": events.height,
        "events_by_type": dict(marked.group_by("event_type").len().sort("event_type").iter_rows()),
        "late": int(marked["late"].sum()),
        "counted": distinct,
        "duplicates": on_time.height - distinct,
        "bot_bursts": bots.select("advertiser_id", "ip").n_unique(),
        "bot_clicks": bots.height,
    }


def describe(truth: dict[str, Any]) -> Iterator[str]:
    """The truth in a few lines, for people."""
    yield f"{truth['records']:,} records, of which {truth['malformed']:,} malformed"
    yield (
        f"{truth['events']:,} events: {truth['counted']:,} to count once, "
        f"{truth['duplicates']:,} duplicates, {truth['late']:,} late"
    )
    yield f"{truth['bot_clicks']:,} clicks of {truth['bot_bursts']:,} bots"
