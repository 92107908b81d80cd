"""Tables of panes as rows that alerts are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa
import xxhash

from adtally.io.arrow import tag
from adtally.transforms.alert_records import Row, Source, Verdict
from adtally.transforms.rules.quotas import Quotas
from adtally.transforms.tally_windows import EARLY, NEWEST, TIMING

MOST_CHARACTERS: Final = 1_000
"""Of a name in a record: a longer one, which no sane producer gives, is cut and hashed, lest a
record be longer than a sink takes and hold the stream up for ever."""

QUIET_WINDOWS: Final = 5
"""An anomaly is over after so many base windows without one: fewer would tell of one that comes
and goes again and again."""


def flag_rows(flags: pa.Table) -> list[Row]:
    """Rows of ``schema.FLAG_SCHEMA``."""
    return [
        _row(row, [_verdict(flag, row["window_start"], row["window_end"]) for flag in row["flags"]])
        for row in _dicts(flags)
    ]


def verdict_rows(verdicts: pa.Table, window_ms: int) -> list[Row]:
    """Rows of ``schema.verdict_schema``, without its adjustments.

    Args:
        verdicts: of a pane.
        window_ms: length of a base window, which each flag is about.
    """
    return [
        _row(row, list(_of_windows(row["flags"], window_ms)), Source.VERDICTS)
        for row in _dicts(verdicts.drop_columns(["adjustments"]))
    ]


def anomaly_rows(anomalies: pa.Table, window_ms: int) -> list[Row]:
    """Rows of ``schema.ANOMALY_SCHEMA``, of anomalies from their first window to their last.

    One that is ``QUIET_WINDOWS`` back is over, and so are all when the history window is. As that
    can come without an event of the advertiser, windows that have passed add to ``version``.

    Args:
        anomalies: of a pane, with the end of the newest window that it knows as tag.
        window_ms: length of a base window.
    """
    final = tag(anomalies, TIMING) != EARLY
    newest = int(tag(anomalies, NEWEST))
    rows = []
    for row in _dicts(anomalies):
        reached = newest + (QUIET_WINDOWS * window_ms if final else 0)
        passed = (newest - row["window_start"]) // window_ms + final
        verdicts = list(_of_windows(row["flags"], window_ms))
        lasting = [
            one
            for _, of_series in groupby(sorted(verdicts, key=_series), key=_series)
            for one in _joined(of_series, window_ms, reached)
        ]
        rows.append(_row({**row, "version": row["version"] + passed}, lasting, Source.ANOMALIES))
    return rows


def quota_rows(summaries: pa.Table, quotas: Quotas) -> list[Row]:
    """A row for each advertiser and window that exceeds a quota."""
    frame = pl.DataFrame(pl.from_arrow(summaries.replace_schema_metadata(None)))
    rows: dict[tuple[str, int], Row] = {}
    times = quotas.exceeded(frame).with_columns(pl.col("window_start", "window_end").dt.epoch("ms"))
    for one in times.iter_rows(named=True):
        advertiser, start, end = short(one["advertiser_id"]), one["window_start"], one["window_end"]
        row = Row(advertiser, start, end, one["version"], [], source=Source.QUOTAS)
        verdict = Verdict(
            start_ms=start,
            end_ms=end,
            rule=f"quota_{one['measure']}",
            ivt_class="",
            subject_type="advertiser",
            subject=advertiser,
            count=one["count"],
            threshold=one["threshold"],
        )
        rows.setdefault((advertiser, start), row).verdicts.append(verdict)
    return list(rows.values())


def short(name: str) -> str:
    """A name as it is, or its beginning and a hash of all of it."""
    if len(name) <= MOST_CHARACTERS:
        return name
    return f"{name[:MOST_CHARACTERS]}…{xxhash.xxh3_128_hexdigest(name.encode())}"


def _dicts(table: pa.Table) -> list[dict[str, Any]]:
    """Rows with the times of their windows in milliseconds."""
    frame = pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))
    return frame.with_columns(pl.col("window_start", "window_end").dt.epoch("ms")).to_dicts()


def _row(row: dict[str, Any], verdicts: list[Verdict], source: Source = Source.FLAGS) -> Row:
    return Row(
        short(row["advertiser_id"]),
        row["window_start"],
        row["window_end"],
        row["version"],
        verdicts,
        row["ruleset_version"],
        source,
    )


def _of_windows(flags: Iterable[dict[str, Any]], window_ms: int) -> Iterator[Verdict]:
    """Flags, each of the base window that it names."""
    for flag in flags:
        start = round(flag.pop("flagged_at").timestamp() * 1000)
        yield _verdict(flag, start, start + window_ms)


def _verdict(flag: dict[str, Any], start_ms: int, end_ms: int) -> Verdict:
    evidence = [short(name) for name in flag["evidence"]]
    about = {**flag, "subject": short(flag["subject"]), "evidence": evidence}
    return Verdict(start_ms=start_ms, end_ms=end_ms, **about)


def _series(verdict: Verdict) -> tuple[str, str]:
    return verdict.rule, verdict.subject


def _joined(verdicts: Iterable[Verdict], window_ms: int, reached: int) -> list[Verdict]:
    """Anomalies of a series, with those joined that are near each other."""
    quiet = QUIET_WINDOWS * window_ms
    found: list[Verdict] = []
    for one in sorted(verdicts, key=lambda verdict: verdict.start_ms):
        if found and one.start_ms - found[-1].end_ms < quiet:
            found[-1] = msgspec.structs.replace(found[-1], end_ms=one.end_ms)
        else:
            found.append(one)
    return [msgspec.structs.replace(one, over=one.end_ms + quiet <= reached) for one in found]
