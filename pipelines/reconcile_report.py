"""What a comparison found, for people and programs."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.shown import shown_line
from adtally.pipelines import reconcile_states as states
from adtally.pipelines.job import shown_time
from adtally.pipelines.reconcile import Found
from adtally.pipelines.reconcile_causes import ORDER, Causes, amounts
from adtally.transforms.windows import Ranges

SUSPECTS_SHOWN = 5


def show(
    found: Found, config: ElasticsearchConfig | None, window_seconds: int, most: int, out: Console
) -> None:
    """Print how many windows are in which state, what that comes to, and the worst of them."""
    (start, end), *_ = found.ranges
    out.print(
        f"{shown_time(start)} to {shown_time(end)}, held against the event log",
        highlight=False,
        soft_wrap=True,
    )
    table = Table()
    for name in ("place", "what", "windows", "state", ""):
        table.add_column(name, justify="right" if name == "windows" else "left")
    ordered = sorted(found.counts.items(), key=lambda one: (one[0][:2], ORDER.index(one[0][2])))
    for (side, kind, state), count in ordered:
        style = "" if state in states.HARMLESS else "bold red"
        table.add_row(side, kind, f"{count:,}", state, states.STATES[state], style=style)
    out.print(table)
    for side, totals in amounts(found, window_seconds).items():
        told = ", ".join(f"{name} {value:+,}" for name, value in totals.items())
        out.print(f"{side} says, beside the log: {told or 'no other sums'}", highlight=False)
    rows = itertools.islice(Causes(found, config).rows(), most)
    for row in rows:
        out.print(escape(shown_line(sentence(row))), soft_wrap=True, highlight=False)
    if found.findings.num_rows > most:
        out.print(f"... and {found.findings.num_rows - most:,} more; --save FILE has all.")
    _show_suspects(found, out)


def sentence(row: dict[str, Any]) -> str:
    """A finding with its cause, in a line."""
    return (
        f"{row['state']:<11} {row['side']:<13} {row['kind']:<9} {row['advertiser_id']} "
        f"{_time(row['window_start'])} ({_length(row['window_seconds'])}): {row['cause']}"
    )


def _show_suspects(found: Found, out: Console) -> None:
    if found.suspects is None or not found.suspects.num_rows:
        return
    total = sum(found.suspects["events"].to_pylist())
    out.print(
        f"perhaps counted twice everywhere: {total:,} events that equal another but for their id "
        f"and address. Was a log read under two names, or sent twice?",
        highlight=False,
    )
    for row in found.suspects.slice(0, SUSPECTS_SHOWN).to_pylist():
        text = (
            f"  {row['events']:,} of {row['advertiser_id']}: "
            f"{row['source']} and {row['other_source']}"
        )
        out.print(escape(shown_line(text)), soft_wrap=True, highlight=False)
    if found.suspects.num_rows > SUSPECTS_SHOWN:
        out.print(f"  and {found.suspects.num_rows - SUSPECTS_SHOWN:,} more pairs")


def ranges_told(ranges: Ranges) -> str:
    """Ranges in words."""
    return ", ".join(f"{shown_time(start)} to {shown_time(end)}" for start, end in ranges)


def as_json(
    found: Found, config: ElasticsearchConfig | None, window_seconds: int, most: int
) -> dict[str, Any]:
    """As plain data: windows by side, kind and state, sums, and the worst findings."""
    windows: dict[str, dict[str, dict[str, int]]] = {}
    for (side, kind, state), count in sorted(found.counts.items()):
        windows.setdefault(side, {}).setdefault(kind, {})[state] = count
    suspects = [] if found.suspects is None else found.suspects.to_pylist()
    sums = amounts(found, window_seconds)
    return {
        "from": shown_time(found.ranges[0][0]),
        "to": shown_time(found.ranges[-1][1]),
        "equal": not found.broken,
        "broken_windows": found.broken,
        "windows": windows,
        "too_much": {
            side: {name: str(value) if " " in name else value for name, value in totals.items()}
            for side, totals in sums.items()
        },
        "findings": list(itertools.islice(Causes(found, config).rows(), most)),
        "suspected_copies": sum(row["events"] for row in suspects),
        "seconds": round(found.seconds, 3),
    }


def saved(found: Found, config: ElasticsearchConfig | None) -> pa.RecordBatchReader:
    """All findings with their causes, ``FINDING_SCHEMA`` and ``cause``; the worst first."""
    schema = states.FINDING_SCHEMA.append(pa.field("cause", pa.string(), nullable=False))
    rows = list(Causes(found, config).rows())
    return pa.Table.from_pylist(rows, schema=schema).to_reader()


def _time(at: datetime.datetime) -> str:
    return f"{at.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _length(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
