"""Where an output holds a tenant or a user: each function looks, or takes it out."""

from __future__ import annotations

import datetime
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa

from adtally.io.alerts import AlertSinkError
from adtally.io.dead_letter_search import LetterSearch
from adtally.io.event_log import HOUR_MS, hour_of
from adtally.io.files import atomic_write, delete, join, leftovers, list_paths, read_bytes
from adtally.io.parquet import date_partition
from adtally.io.rewrite import (
    UnreadableFile,
    read_columns,
    rewrite_lines,
    rewrite_parquet,
    rewrite_shared_lines,
    rows_where,
    without_value,
)
from adtally.transforms.alert_rows import short
from adtally.transforms.forget import (
    NEEDED,
    Person,
    Plan,
    Tokens,
    forget_events,
    is_theirs,
    plan,
)
from adtally.transforms.forget_rows import forget_flag_rows, forget_summary_rows, user_hash
from adtally.transforms.rules.ruleset import Ruleset

TABLES: Final = ("events", "late", "summaries", "flags", "verdicts", "anomalies")
LETTERS: Final = ("dead-letters", "dead-letters-replayed")
RECORD_PREFIX: Final = "erasure-"
"""Of our own records in ``runs/``, which name nobody."""

ERASED: Final = "(erased)"
"""Stands for an address in the record of a run."""

_FILES_AT_ONCE: Final = 4
_COPY: Final = ["advertiser_id", "event_type", "event_id", "occurred_at"]

Tell = Callable[[str, int, int], None]
"""Is told a place, how many of its files are done, and of how many."""


def tenant_rows(output: str, advertiser: str, write: bool, tell: Tell) -> dict[str, Counter[str]]:
    """Rows of an advertiser in all tables."""
    only = ("advertiser_id", advertiser)
    change = partial(rewrite_parquet, change=without_value(*only), write=write, only=only)
    return {kind: _each(kind, _tables(output, kind), change, tell) for kind in TABLES}


def planned(output: str, person: Person, tokens: Tokens, window_ms: int, tell: Tell) -> Plan:
    """What has to be known of the log before it changes: one look at all of its files."""
    paths = _tables(output, "events")
    found = _their_rows([*paths, *_tables(output, "late")], person, tell)
    if found is None:
        return Plan()
    wanted = found.select(_COPY).unique()
    others = []
    hours = set((found["occurred_at"].dt.epoch("ms") // HOUR_MS * HOUR_MS).to_list())
    for path in paths:
        if hour_of(path) in hours:
            some = read_columns(path, NEEDED)
            copies = some.join(wanted, on=_COPY, how="semi")
            others.append(copies.filter(~_theirs(copies, person)))
    copies = pl.concat(others) if others else found.clear()
    return plan(found, copies, window_ms, tokens)


def counted_windows(output: str, person: Person, tell: Tell) -> set[tuple[str, int]]:
    """(advertiser, start in ms) of stored summaries that count a person, the log there or not."""
    old = user_hash(person.user)

    def look(path: str) -> set[tuple[str, int]]:
        rows = read_columns(path, ("advertiser_id", "window_start", "unique_user_hashes"))
        theirs = pl.col("unique_user_hashes").list.contains(old)
        if person.advertiser is not None:
            theirs &= pl.col("advertiser_id") == person.advertiser
        found = rows.filter(theirs)
        return set(found.select("advertiser_id", pl.col("window_start").dt.epoch("ms")).iter_rows())

    paths = _tables(output, "summaries")
    windows: set[tuple[str, int]] = set()
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        for done, found in enumerate(threads.map(look, paths), start=1):
            windows |= found
            tell("plan", done, len(paths))
    return windows


def _their_rows(paths: Sequence[str], person: Person, tell: Tell) -> pl.DataFrame | None:
    found = []
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        look = partial(rows_where, column="user_id", value=person.user, columns=NEEDED)
        for done, rows in enumerate(threads.map(look, paths), start=1):
            if rows is not None:
                found.append(rows.filter(_theirs(rows, person)))
            tell("plan", done, len(paths))
    rows = pl.concat(found) if found else None
    return rows if rows is not None and rows.height else None


def _theirs(rows: pl.DataFrame, person: Person) -> pl.Series:
    return rows.select(is_theirs(person).alias("x"))["x"]


def person_rows(
    output: str,
    person: Person,
    known: Plan,
    tokens: Tokens,
    *,
    window_ms: int,
    uniques_k: int,
    allow: Ruleset | None,
    write: bool,
    tell: Tell,
) -> dict[str, Counter[str]]:
    """A user's events, and what names them in flags, verdicts and summaries."""

    def events(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
        done = forget_events(table, person, known, tokens, window_ms, allow)
        return done.table, Counter(rows=done.rows, shared=done.shared) - Counter()

    def flags(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
        rows, count = forget_flag_rows(table, person, known, tokens)
        return rows, Counter(rows=count) - Counter()

    def summaries(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
        rows, count = forget_summary_rows(table, person, tokens, uniques_k)
        return rows, Counter(rows=count) - Counter()

    starts = {start for _, start in known.windows}
    hours = {
        hour
        for start in starts
        for hour in range(start // HOUR_MS * HOUR_MS, start + window_ms, HOUR_MS)
    }
    dates = {date_partition(start) for start in starts}
    changes = {"events": events, "late": events, "summaries": summaries}
    found = {}
    for kind in TABLES[:-1]:  # anomalies are about series
        paths = _tables(output, kind)
        if kind == "events":
            paths = [path for path in paths if hour_of(path) in hours]
        elif kind == "late":
            paths = [path for path in paths if posixpath.basename(posixpath.dirname(path)) in dates]
        change = partial(rewrite_parquet, change=changes.get(kind, flags), write=write)
        found[kind] = _each(kind, paths, change, tell)
    return found


def letters(output: str, search: LetterSearch, write: bool, tell: Tell) -> dict[str, Counter[str]]:
    """Dead letters, replayed ones too."""

    def change(path: str) -> Counter[str]:
        try:
            removed = rewrite_lines(path, lambda line: not search.finds(line), write)
        except ValueError as error:
            raise UnreadableFile(
                f"{path}: a line {error} Nothing says what it holds; remove it, and run again."
            ) from error
        return Counter(letters=removed) - Counter()

    return {
        kind: _each(kind, list_paths(join(output, kind, "**", "*.jsonl.gz")), change, tell)
        for kind in LETTERS
    }


def alerts(
    targets: Sequence[str],
    advertiser: str | None,
    user: str | None,
    known: Plan,
    write: bool,
    tell: Tell,
) -> Counter[str]:
    """Alerts and limits in files: of a tenant, or that name a user or an address of theirs."""
    named = None if user is None else short(user)
    word = re.compile(rf"(?<!\w){re.escape(user or advertiser or '')}(?!\w)")

    def keep(line: bytes) -> bool:
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):  # a line that a kill cut short
            return not word.search(line.decode("utf-8", "replace"))
        if advertiser is not None and record.get("advertiser_id") != short(advertiser):
            return True
        if named is None:
            return False
        kind, subject = record.get("subject_type"), record.get("subject")
        start = _ms(record.get("window_start"))
        address = (record.get("advertiser_id"), start, subject) in known.addresses
        return not ((kind == "user" and subject == named) or (kind == "ip" and address))

    def change(path: str) -> Counter[str]:
        shared = "://" not in path and Path(path).is_file() and path in targets
        if shared:
            return Counter(alerts=rewrite_shared_lines(Path(path), keep, write)) - Counter()
        return Counter(alerts=rewrite_lines(path, keep, write)) - Counter()

    return _each("alerts", list(_alert_files(targets)), change, tell)


def _alert_files(targets: Sequence[str]) -> Iterator[str]:
    for target in targets:
        if "://" not in target and Path(target).is_file():
            yield target
            continue
        found = list_paths(join(target, "*.jsonl"))
        if not found and "://" not in target and not Path(target).is_dir():
            raise AlertSinkError(
                f"there are no alerts at {target}; say with --alerts where a stream's alerts are: "
                f"a file, or a folder."
            )
        yield from found


def runs(output: str, names: Sequence[str], write: bool, tell: Tell) -> Counter[str]:
    """Addresses of inputs that name the subject, in the records of runs."""
    words = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)") for name in names]

    def change(path: str) -> Counter[str]:
        record = msgspec.json.decode(read_bytes(path), type=dict[str, Any])
        inputs = record.get("inputs", [])
        kept = [ERASED if any(word.search(one) for word in words) else one for one in inputs]
        count = sum(a != b for a, b in zip(kept, inputs, strict=True))
        if count and write:
            with atomic_write(path) as file:
                text = msgspec.json.encode({**record, "inputs": kept})
                file.write(msgspec.json.format(text, indent=2) + b"\n")
        return Counter(inputs=count) - Counter()

    paths = list_paths(join(output, "runs", "*.json"))
    own = [one for one in paths if not posixpath.basename(one).startswith(RECORD_PREFIX)]
    return _each("runs", own, change, tell)


def unfinished(output: str, write: bool) -> Counter[str]:
    """Temporary files of runs that were killed: nobody reads them, and they may hold anybody."""
    found = leftovers(output)
    if write:
        delete(found)
    return Counter(files=len(found), unfinished=len(found)) - Counter()


def _tables(output: str, kind: str) -> list[str]:
    paths = list_paths(join(output, kind, "**", "*.parquet"))
    return [path for path in paths if not posixpath.basename(path).startswith("_")]


def _each(
    kind: str, paths: Sequence[str], change: Callable[[str], Counter[str]], tell: Tell
) -> Counter[str]:
    """Files changed, and what in them."""
    counts: Counter[str] = Counter()
    tell(kind, 0, len(paths))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        for done, found in enumerate(threads.map(change, paths), start=1):
            counts += found
            counts += Counter(files=bool(found))
            tell(kind, done, len(paths))
    return counts


def _ms(text: Any) -> int | None:
    if not isinstance(text, str):
        return None
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)
