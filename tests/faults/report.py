"""Results of the campaign: the data file, and the page made from it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.catalogue import FAULTS, FaultCase
from tests.faults.stage import Run

DOCS = Path(__file__).parents[2] / "docs"
DATA = DOCS / "faults.json"

_HEAD = """# Faults

Made by `make faults` from [faults.json](faults.json); do not edit. How it measures is in
[streaming.md](streaming.md#breaking-it).

So many lines a second go into three shards; each fault happens at a moment drawn from a seed, under
that load. Then the producer holds until Elasticsearch, the views over the summaries and the views
over the event log say exactly what SQL says over the lines that were sent, row by row. "Lost" and
"double" are events, over all three, when that was so, or when it was given up. "Twice" are rows
that the files of the log hold more than once, and the views once. Seconds are from the fault on,
less the time that it lasted; they contain the wait for the next pane, for the log (5 s), and for
SQL itself (1 to 3 s), and where a job is submitted again, its savepoint and its start. On a machine
whose load is far above its cores they say little.

"""
_COLUMNS = (
    *("fault", "times", "lines/s", "lines", "counted", "as SQL says", "lost", "double", "twice"),
    *("s p50", "s max", "restarts", "load"),
)


def merge(
    path: Path, case: FaultCase, seed: int, rate: int, runs: list[Run], append: bool = False
) -> dict[str, Any]:
    """Put the runs of a fault into the data file; returns all of it.

    Args:
        path: the data file.
        case: the fault.
        seed: of its moments.
        rate: lines a second.
        runs: what it cost, each time.
        append: to the runs that are there, not in place of them.
    """
    data = json.loads(path.read_text()) if path.exists() else {"faults": {}}
    before = data["faults"].get(case.name, {}).get("runs", []) if append else []
    data["faults"][case.name] = {
        "title": case.title,
        "setting": case.setting.name,
        "seed": seed,
        "rate": rate,
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "runs": [*before, *(asdict(run) for run in runs)],
    }
    names = [fault.name for fault in FAULTS]
    data["faults"] = dict(sorted(data["faults"].items(), key=lambda item: names.index(item[0])))
    path.write_text(json.dumps(data, indent=1) + "\n")
    return data


def page(data: dict[str, Any]) -> str:
    """The Markdown page."""
    rows = [_row(entry) for entry in data["faults"].values()]
    seen = [_seen(entry) for entry in data["faults"].values()]
    missing = [fault.title for fault in FAULTS if fault.name not in data["faults"]]
    head = [f"| {' | '.join(_COLUMNS)} |", "|---" + "|--:" * (len(_COLUMNS) - 1) + "|"]
    parts = [_HEAD + "\n".join([*head, *rows]), "![seconds to recover, by fault](faults.svg)"]
    if missing:
        parts.append("Not run: " + "; ".join(missing) + ".")
    parts.append(_machine(data))
    parts.append("## What the logs say\n\nThe most frequent messages while it lasted.")
    parts.append("\n".join(seen))
    return "\n\n".join(parts) + "\n"


def failed(runs: list[Run]) -> bool:
    """Whether something was lost, double or wrong, or never well again."""
    return any(run.lost or run.double or run.wrong or run.seconds is None for run in runs)


def _row(entry: dict[str, Any]) -> str:
    runs = entry["runs"]
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
    never = len(runs) - len(seconds)
    total = {name: sum(run[name] for run in runs) for name in ("sent", "lost", "double", "twice")}
    restarts = [run["restarts"] for run in runs]
    p50 = f"{statistics.median(seconds):.0f}" if seconds else "-"
    most = f"never ({never})" if never else f"{max(seconds):.0f}"
    load = f"{min(run['load'] for run in runs):.0f} to {max(run['load'] for run in runs):.0f}"
    cells = [
        *(entry["title"], len(runs), entry["rate"], total["sent"], runs[-1]["counted"]),
        *(runs[-1]["expected"], total["lost"], total["double"], total["twice"], p50, most),
        *("?" if None in restarts else sum(restarts), load),
    ]
    shown = (f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
    return f"| {' | '.join(shown)} |"


def _machine(data: dict[str, Any]) -> str:
    machines = sorted({entry["machine"] for entry in data["faults"].values()})
    dates = sorted(entry["measured"] for entry in data["faults"].values())
    return (
        f"Measured {dates[0]} to {dates[-1]} on {'; '.join(machines)}, shared with other work. "
        f"'Load' is the average of the minute before the fault, with the stream's own: "
        f"above the number of cores the machine was short of them. 'Counted' is in Elasticsearch, "
        f"since the start of the stream that faults of one setting share."
    )


def _seen(entry: dict[str, Any]) -> str:
    told: list[str] = []
    for run in entry["runs"]:
        told += [line for line in run["seen"] if line.split(" (")[0] not in str(told)]
    if not told:
        return f"- **{entry['title']}**: nothing."
    return "\n".join([f"- **{entry['title']}**", *(f"  - `{line}`" for line in told[:4])])
