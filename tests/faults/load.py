"""The load, and the comparison of what came out of it with SQL over what was sent."""

from __future__ import annotations

import operator
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import sql_oracle, streams

_LOG_KEYS = "advertiser_id, event_type, event_id, content_hash"


class Producer(threading.Thread):
    """Sends so many lines a second; holds between two puts where asked to."""

    def __init__(self, client: Any, stream: str, lines: list[bytes], rate: int, log: Path) -> None:
        super().__init__(daemon=True)
        self._rate = rate
        self._client = client
        self._stream = stream
        self._lines = iter(lines)
        self._log = log
        self._turn = threading.Lock()
        self.sent = 0
        self.ended = False

    def run(self) -> None:
        seed = 0
        while not self.ended:
            seed += 1
            with self._turn:
                some = [line for line, _ in zip(self._lines, range(self._rate), strict=False)]
                streams.put(self._client, self._stream, some, seed)
                with self._log.open("ab") as log:
                    log.writelines(line + b"\n" for line in some)
                self.sent += len(some)
            time.sleep(1)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No put is under way, and none begins."""
        with self._turn:
            yield


@dataclass(frozen=True)
class Expected:
    """What SQL says over the lines that were sent.

    Attributes:
        summaries: base rows, as :func:`tests.sql_oracle.summaries`.
        events: how often each event is to be in the log, by what identifies it.
    """

    summaries: list[Any]
    events: Counter[Any]

    @classmethod
    def of(cls, sent: Path) -> Expected:
        sql = streams.oracle(sent)
        summaries = sql_oracle.summaries(sql, 60)
        rows = sql.execute(f"SELECT {_LOG_KEYS} FROM events").fetchall()
        return cls(summaries, Counter(rows))

    @property
    def counted(self) -> int:
        return counted(self.summaries)


@dataclass(frozen=True)
class Log:
    """The event log: events as the views show them, and rows that its files hold more than once."""

    events: Counter[Any]
    twice: int


def logged(output: Path) -> Log:
    """The event log of an output as it is now."""
    if not list(output.glob("events/**/*.parquet")):
        return Log(Counter(), 0)
    connection = streams.views(output)
    rows = connection.execute(f"SELECT {_LOG_KEYS} FROM event_rows").fetchall()
    files = f"SELECT count(*) FROM read_parquet('{output}/events/**/*.parquet')"
    in_files = int(connection.execute(files).fetchall()[0][0])
    return Log(Counter(rows), in_files - len(rows))


def summed(output: Path) -> list[Any]:
    """Base summaries of an output as the views show them now."""
    return streams.stored(output) if list(output.glob("summaries/**/*.parquet")) else []


def counted(rows: Sequence[Any]) -> int:
    """Events that rows count, without duplicates."""
    return sum(sum(row[3:6]) for row in rows)


@dataclass(frozen=True)
class Difference:
    """Events that are missing, that are too many, and rows that differ in something else."""

    lost: int = 0
    double: int = 0
    wrong: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.lost + other.lost, self.double + other.double, self.wrong + other.wrong
        )

    def __bool__(self) -> bool:
        return bool(self.lost or self.double or self.wrong)


def compared(actual: Sequence[Any], expected: Sequence[Any]) -> Difference:
    """Rows of summaries beside those of SQL; events with their duplicates are what is counted."""
    theirs, ours = _by_key(expected), _by_key(actual)
    difference = Difference()
    for key in theirs.keys() | ours.keys():
        wanted, found = theirs.get(key), ours.get(key)
        if wanted == found:
            continue
        gap = sum(wanted[3:7] if wanted else ()) - sum(found[3:7] if found else ())
        difference += Difference(max(0, gap), max(0, -gap), int(gap == 0))
    return difference


def compared_events(actual: Counter[Any], expected: Counter[Any]) -> Difference:
    """Events of the log beside those of SQL."""
    return Difference((expected - actual).total(), (actual - expected).total())


def _by_key(rows: Sequence[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for row in rows:
        key = tuple(row[:3])
        if key in found:  # seen twice is counted twice
            row = (*key, *map(operator.add, found[key][3:], row[3:]))
        found[key] = tuple(row)
    return found
