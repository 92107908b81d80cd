"""Summaries and verdicts as the files of an output have them: settled rows only."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from adtally.io.stored import Restriction
from adtally.pipelines.dashboard.reader import (
    LISTED,
    MOST_VALUES,
    MOST_VERDICTS,
    SUMS,
    Row,
    Unreachable,
    Verdicts,
)
from adtally.pipelines.dashboard.view import View
from adtally.pipelines.query import Limits, Query
from adtally.pipelines.query_parts import QueryError, QueryFailed

LIMITS: Final = Limits(memory="2GB")
"""Of a question: several visitors ask at once. What needs more spills to a disk."""

_FLAGS: Final = """
SELECT advertiser_id, window_start, window_end, rule, ivt_class, subject_type, subject, count,
    threshold, evidence
FROM flags
UNION ALL
SELECT advertiser_id, flagged_at, flagged_at + INTERVAL {seconds} SECOND, rule, ivt_class,
    subject_type, subject, count, threshold, evidence
FROM look_back_flags WHERE {inside}
"""


class StoredReader:
    """Reads; see :class:`~adtally.pipelines.dashboard.reader.Reader`.

    Args:
        output: address of an output.
        window_seconds: of its base windows.
    """

    name = "parquet"

    def __init__(self, output: str, window_seconds: int) -> None:
        self._output = output
        self._seconds = window_seconds

    def advertisers(self, view: View) -> list[Row]:
        return self._rows(
            view,
            f"SELECT advertiser_id, currency, {_sums(LISTED)}, max(last_event_at) AS last_event_at "
            f"FROM {self._base} GROUP BY ALL ORDER BY ALL",
        )

    def sparks(self, view: View) -> dict[str, list[int]]:
        found = {name: [0] * len(view.starts()) for name in view.advertisers or ()}
        rows = self._rows(
            view,
            f"SELECT advertiser_id, {_step(view)} AS start, sum(clicks)::BIGINT AS clicks "
            f"FROM {self._base} GROUP BY ALL",
        )
        for row in rows:
            found[row["advertiser_id"]][(row["start"] - view.from_ms) // view.step_ms] = row[
                "clicks"
            ]
        return found

    def series(self, view: View, names: Sequence[str] = SUMS) -> list[Row]:
        return self._rows(
            view,
            f"SELECT {_step(view)} AS start, currency, {_sums(names)}, "
            f"max(epoch_ms(final_after)) <= {view.now_ms} AS final "
            f"FROM {self._base} GROUP BY ALL ORDER BY ALL",
        )

    def top(self, view: View, dimension: str) -> list[Row]:
        named = f'"{dimension}"'
        return self._rows(
            view,
            f"WITH most AS (SELECT {named} AS value, sum(clicks) AS n FROM {self._base} "
            f"GROUP BY ALL ORDER BY n DESC, value LIMIT {MOST_VALUES}) "
            f"SELECT value, currency, {_sums(LISTED)} FROM {self._base} "
            f"JOIN most ON value IS NOT DISTINCT FROM {named} "
            f"GROUP BY value, currency, n ORDER BY n DESC, value, currency",
        )

    def verdicts(self, view: View, most: int = MOST_VERDICTS) -> Verdicts:
        inside = Restriction(view.from_ms, view.to_ms).inside("flagged_at")
        flags = _FLAGS.format(seconds=self._seconds, inside=inside)
        with self._open(view) as asked:
            rules = read(
                asked,
                f"SELECT rule, ivt_class, subject_type, count(*) AS verdicts, "
                f"sum(count)::BIGINT AS events FROM ({flags}) GROUP BY ALL "
                f"ORDER BY events DESC, rule",
            )
            newest = read(
                asked,
                f"SELECT * FROM ({flags}) ORDER BY window_start DESC, count DESC LIMIT {most}",
            )
        return Verdicts(rules, newest)

    def anomalies(self, view: View) -> list[Row]:
        inside = Restriction(view.from_ms, view.to_ms).inside("flagged_at")
        return self._rows(
            view,
            f"SELECT advertiser_id, flagged_at, rule, subject, count, threshold FROM anomalies "
            f"WHERE {inside} ORDER BY flagged_at, advertiser_id, subject",
        )

    def close(self) -> None:
        """Nothing stays open between questions."""

    @property
    def _base(self) -> str:
        return f"(FROM net_summaries WHERE window_seconds = {self._seconds})"

    def _rows(self, view: View, sql: str) -> list[Row]:
        with self._open(view) as asked:
            return read(asked, sql)

    @contextmanager
    def _open(self, view: View) -> Iterator[Query]:
        with opened(self._output, view) as asked:
            yield asked


@contextmanager
def opened(output: str, view: View, limits: Limits | None = LIMITS) -> Iterator[Query]:
    """What of an output a view sees, to be asked.

    Raises:
        Unreachable: it cannot be read.
    """
    seen = Restriction(view.from_ms, view.to_ms, view.advertisers or ())
    try:
        with Query(output, seen, limits) as asked:
            yield asked
    except (QueryError, QueryFailed, OSError) as error:
        raise Unreachable(f"{output} cannot be read: {error}") from error


def read(asked: Query, sql: str) -> list[Row]:
    rows: list[dict[str, Any]] = asked.ask(sql).read_all().to_pylist()
    return [{name: _aware(value) for name, value in row.items()} for row in rows]


def _aware(value: Any) -> Any:
    return value.astimezone(datetime.UTC) if isinstance(value, datetime.datetime) else value


def _sums(names: Sequence[str]) -> str:
    return ", ".join(f"sum({name})::BIGINT AS {name}" for name in names)


def _step(view: View) -> str:
    step, start = view.step_ms, view.from_ms
    return f"(epoch_ms(window_start) - {start}) // {step} * {step} + {start}"
