"""Foreign logs looked into: a proposal of a mapping, and what a sample gives with it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from adtally.io.foreign import NotAdLogs, Sample, files_of, sample, spread
from adtally.io.shown import shown_line
from adtally.pipelines.inspect_fields import (
    ENOUGH,
    LED_ON,
    TYPE_NAMES,
    TYPES,
    Guess,
    Seen,
    fields_of,
    guesses,
)
from adtally.transforms.decode import Decoded, decode
from adtally.transforms.mapping import identity_mapping, parse_mapping

FILES: Final = 8
"""That are looked into, from the first to the last."""

CHECK: Final = "CHECK"
"""Begins what a person has to look at, in a proposal."""

MISSING: Final = {
    "event_id": "ids are made of file and byte offset, so a log that is sent again under another "
    "name counts twice",
    "campaign_id": "no figures by campaign",
    "user_id": "no unique users, and no rules that count by user",
    "ip": "no rules that count by address",
    "user_agent": "robots are not known by their names",
    "cost_micros": "no spend",
}
"""What goes without a field."""

_TRUE: Final = ("1", "true", "yes", "y", "t")
_FALSE: Final = ("0", "false", "no", "n", "f")
_TOLD: Final = 80
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Types:
    """How records tell impressions, clicks and conversions apart.

    Attributes:
        rules: TOML, lines below ``[fields]`` or ``[[events]]``.
        why: what was found.
        doubts: what a person has to look at.
    """

    rules: tuple[str, ...]
    why: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspected:
    """What a sample is, and gives.

    Attributes:
        sample: the records.
        paths: the files it is of.
        files: how many there are.
        guesses: where our fields come from.
        types: how types of events are told apart.
        toml: the proposed mapping; empty where none is needed.
        doubts: what a person has to look at.
        missing: fields of ours that the records do not have, and what goes without them.
        unread: fields that nothing reads, which are kept in ``extra``.
        decoded: the sample as events, with the proposed mapping.
    """

    sample: Sample
    paths: tuple[str, ...]
    files: int
    guesses: tuple[Guess, ...]
    types: Types | None
    toml: str
    doubts: tuple[str, ...]
    missing: dict[str, str]
    unread: tuple[str, ...]
    decoded: Decoded = field(repr=False)

    @property
    def dead(self) -> Counter[str]:
        """Records of the sample that give no event, by the reason."""
        return Counter(letter.error_type for letter in self.decoded.dead_letters)

    @property
    def usable(self) -> bool:
        """Whether nothing is left to be looked at."""
        return not (self.doubts or self.decoded.dead or self.sample.rejected)


def inspect(
    inputs: Sequence[str],
    time_zone: str | None = None,
    currency: str | None = None,
    event_type: str | None = None,
) -> Inspected:
    """Look into the begin of some of the files, and propose a mapping.

    Args:
        inputs: paths, folders, patterns.
        time_zone: of times that say none; None where nobody said.
        currency: of money, where records have none.
        event_type: of all records, where nothing in them says it.

    Raises:
        NoInput: there are no files.
        NotAdLogs: nothing that events could be made of.
        MappingError: the zone or the currency is none.
    """
    files = files_of(inputs)
    chosen = spread(files, FILES)
    found = sample(chosen)
    paths = tuple(one.path for one in chosen)
    now_ms = round(time.time() * 1000)
    plain = decode(found.chunk, identity_mapping(), now_ms=now_ms)
    records = list(_records(found.chunk.data))
    fields = fields_of(records)
    if not fields:
        letter = plain.dead_letters[0].message if plain.dead_letters else "no record in it"
        raise NotAdLogs(f"{paths[0]} has no record of JSON with fields: {letter}.")
    if plain.records and not plain.dead:
        return Inspected(found, paths, len(files), (), None, "", (), {}, (), plain)
    made = guesses(fields, len(records), time_zone)
    if not any(guess.target == "occurred_at" for guess in made):
        raise NotAdLogs(
            f"{paths[0]}: no field holds times that are understood; events need one. Its fields: "
            f"{shown_line(', '.join(list(fields)[:30]))}."
        )
    types = _types(fields, made, paths, event_type)
    made += _click_ids(made, types)
    toml, doubts = _proposal(made, types, paths, currency)
    decoded = decode(found.chunk, parse_mapping(toml, "the proposal"), now_ms=now_ms)
    has = {guess.target for guess in made}
    read = {guess.seen.name for guess in made}
    return Inspected(
        found,
        paths,
        len(files),
        tuple(made),
        types,
        toml,
        tuple(doubts),
        {name: why for name, why in MISSING.items() if name not in has},
        tuple(name for name in fields if name not in read and name not in "".join(types.rules)),
        decoded,
    )


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    """Lines that are objects of JSON, with numbers as their text."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            record = decoder.decode(line.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _types(
    fields: dict[str, Seen], made: Sequence[Guess], paths: Sequence[str], given: str | None
) -> Types:
    known = {text: name for name, texts in TYPES.items() for text in texts}
    for name in TYPE_NAMES:
        for seen in (one for one in fields.values() if name in one.words):
            counts = Counter(seen.values)
            unknown = {value: n for value, n in counts.items() if value.lower() not in known}
            if sum(unknown.values()) <= 0.5 * counts.total() and len(counts) <= 100:
                return _by_field(seen, counts, unknown, known)
    return _by_hint(fields, made, paths, given)


def _by_field(
    seen: Seen, counts: Counter[str], unknown: dict[str, int], known: dict[str, str]
) -> Types:
    told = f"types of events are in {_told(seen.name)}"
    if all(value in TYPES for value in counts):
        return Types((f"event_type = {_source(seen, {})}",), told)
    doubts = []
    if unknown:
        values = ", ".join(f"{_told(value)} ({n:,})" for value, n in list(unknown.items())[:5])
        doubts.append(f"of {_told(seen.name)} nothing is known of {values}: dead letters")
    if seen.path is not None:
        raise NotAdLogs(
            f"types of events are in {_told(seen.name)}, inside an object, where 'when' of a "
            f"mapping does not look. Have it at the top of the records."
        )
    rules = []
    for name in TYPES:
        texts = sorted(value for value in counts if known.get(value.lower()) == name)
        if texts:
            rules += ["[[events]]", f"when = {{ field = {_quoted(seen.source)}, equals = "
                      f"[{', '.join(map(_quoted, texts))}] }}",
                      f"fields.event_type = {{ constant = {_quoted(name)} }}", ""]  # fmt: skip
    return Types(tuple(rules), told, tuple(doubts))


def _by_hint(
    fields: dict[str, Seen], made: Sequence[Guess], paths: Sequence[str], given: str | None
) -> Types:
    """By the name of the time, or of the files."""
    at = next(guess.seen.name for guess in made if guess.target == "occurred_at")
    name, why, doubt = "click", "nothing says what the records are", ""
    hinted = [
        (one, text) for text in (at, *paths) for one in TYPES if one in text.lower().split("/")[-1]
    ]
    if given:
        name, why = given, "as --event-type says"
    elif hinted:
        name, why = hinted[0][0], f"{_told(hinted[0][1])} says that records are {hinted[0][0]}s"
    else:
        doubt = "nothing says what the records are; clicks are assumed"
    rules = ["[[events]]", f"fields.event_type = {{ constant = {_quoted(name)} }}"]
    for seen in fields.values():
        values = {value.lower() for value in seen.values}
        led = seen.path is None and set(seen.words) & set(LED_ON)
        if name == "click" and led and values <= {*_TRUE, *_FALSE}:
            true = sorted({value for value in seen.values if value.lower() in _TRUE}) or ["1"]
            rules += ["", f"# {_told(seen.name)} is true: the click, and what it led to",
                      "[[events]]", f"when = {{ field = {_quoted(seen.source)}, equals = "
                      f"[{', '.join(map(_quoted, true))}] }}",
                      'fields.event_type = { constant = "conversion" }']  # fmt: skip
            break
    return Types(tuple(rules), why, (doubt,) if doubt else ())


def _click_ids(made: Sequence[Guess], types: Types) -> list[Guess]:
    """The identity of records that are clicks, where they have none but their click id."""
    has = {guess.target: guess for guess in made}
    clicks = 'fields.event_type = { constant = "click" }' in types.rules
    other = any("impression" in rule for rule in types.rules)
    if "event_id" in has or "click_id" not in has or not clicks or other:
        return []
    seen = has["click_id"].seen
    if len(set(seen.values)) < len(seen.values):
        return []
    return [Guess("event_id", seen, why="records are clicks, and its values are distinct")]


def _proposal(
    made: Sequence[Guess], types: Types, paths: Sequence[str], currency: str | None
) -> tuple[str, list[str]]:
    """The mapping as TOML, and what has to be looked at."""
    has = {guess.target for guess in made}
    doubts: list[str] = []
    lines = [f"# Proposed by 'adtally inspect' from {_told(paths[0])}. Look at what says {CHECK}."]
    lines += ["# docs/mapping.md says what can be written here.", "", "[fields]"]

    def add(rule: str, why: str = "", doubt: str = "") -> None:
        if doubt:
            doubts.append(f"{rule.split(' ')[0]}: {doubt}")
            lines.append(f"# {CHECK}: {shown_line(doubt)}")
        lines.append(rule + (f"  # {shown_line(why)}" if why else ""))

    if types.rules and not types.rules[0].startswith("[["):
        add(types.rules[0], types.why)
    if "advertiser_id" not in has:
        doubt = "no field names the advertiser: all events would be of one, called 'all'"
        add('advertiser_id = { constant = "all" }', "", doubt)
    for guess in made:
        others = f"; or {', '.join(map(_told, guess.others))}" if guess.others else ""
        rule = f"{guess.target} = {_source(guess.seen, guess.rule)}"
        add(rule, _told(guess.why) + others, guess.doubt)
    if has & {"cost_micros", "revenue_micros"} and "currency" not in has:
        doubt = "" if currency else "no field names the currency; XXX stands for none"
        add(f"currency = {{ constant = {_quoted(currency or 'XXX')} }}", "", doubt)
    for doubt in types.doubts:
        doubts.append(f"event_type: {doubt}")
        lines += ["", f"# {CHECK}: {shown_line(doubt)}"]
    if types.rules and types.rules[0].startswith("[["):
        lines += ["", f"# {shown_line(types.why)}", *types.rules]
    return "\n".join(lines).rstrip() + "\n", doubts


def _source(seen: Seen, rule: dict[str, str | int]) -> str:
    if seen.path is None and not rule:
        return _quoted(seen.source)
    keys: dict[str, str | int] = {"from": seen.source}
    if seen.path is not None:
        keys["path"] = seen.path
    parts = [
        f"{key} = {value:_}" if isinstance(value, int) else f"{key} = {_quoted(value)}"
        for key, value in (keys | rule).items()
    ]
    return f"{{ {', '.join(parts)} }}"


def _quoted(text: str) -> str:
    """As a basic string of TOML, which has the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _told(text: str) -> str:
    line = shown_line(text)
    return line if len(line) <= _TOLD else line[:_TOLD] + "..."


def span(decoded: Decoded) -> tuple[Any, Any]:
    """When the first and the last event of a sample happened."""
    times = pl.Series(pl.from_arrow(decoded.events["occurred_at"]))
    return times.min(), times.max()


__all__ = ["CHECK", "ENOUGH", "FILES", "Inspected", "Types", "inspect", "span"]
