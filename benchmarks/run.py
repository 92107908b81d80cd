"""``make bench``: the same job by adtally, DuckDB, Polars and Spark, interleaved, on this machine.

Job: 2 million events in 24 hourly gzip files to a Parquet event log and summaries per advertiser
and minute with a clicks-per-address flag; malformed records are found, duplicates count once.
Every engine's totals have to agree.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from adtally.transforms.rules.ruleset import (
    EVENT_RULES,
    HISTORY_RULES,
    SERIES_RULES,
    WINDOW_RULES,
)
from benchmarks.usage import Usage

ROOT = Path(__file__).parent.parent
DATA = ROOT / "benchmarks" / "data"
EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "2000000"))
ROUNDS = int(os.environ.get("ADTALLY_BENCH_ROUNDS", "3"))
PEERS = ("duckdb", "polars", "spark")
RULES = tuple(rule.NAME for rule in (*EVENT_RULES, *WINDOW_RULES, *HISTORY_RULES, *SERIES_RULES))
ALL_RULES = "adtally, 1 process, all rules"
SAME = ("events", "impressions", "clicks", "conversions", "rows", "flags")


@dataclass
class Measured:
    wall: float
    cpu: float
    peak_mb: float
    totals: dict[str, int]


def main() -> None:
    logs = data()
    one_rule = adtally(logs, rules_file("givt_click_rate_ip"))
    jobs = {
        "adtally, 1 process": one_rule,
        "adtally, 2 processes": [
            *one_rule,
            "--direct_num_workers=2",
            "--direct_running_mode=multi_processing",
        ],
        ALL_RULES: adtally(logs, rules_file(*RULES)),
        **{name: peer(name, logs) for name in PEERS},
    }
    runs: dict[str, list[Measured]] = {name: [] for name in jobs}
    for turn in range(ROUNDS):
        for name, command in jobs.items():
            runs[name].append(measured(name, command))
            print(f"round {turn + 1}, {name}: {runs[name][-1]}", flush=True)
    check(runs)
    report(runs, logs)


def data() -> Path:
    """Make the events once; they stay under benchmarks/data."""
    folder = DATA / f"{EVENTS}"
    if not (folder / "truth" / "truth.json").exists():
        from adtally.io.synthetic import GenerateConfig
        from adtally.io.synthetic_logs import generate

        generate(GenerateConfig(EVENTS, 1, str(folder), late_ratio=0.0))
    return folder / "logs"


def rules_file(*names: str) -> Path:
    """A file of rules with these, and 5,000 networks of servers."""
    rng = random.Random(1)
    folder = DATA / f"{len(names)}-rules"
    folder.mkdir(parents=True, exist_ok=True)
    networks = (
        f"{rng.randrange(60, 220)}.{rng.randrange(256)}.{rng.randrange(256)}.0/24\n"
        for _ in range(5_000)
    )
    (folder / "servers.txt").write_text("".join(networks))
    off = (f"[rules.{name}]\nenabled = false\n" for name in RULES if name not in names)
    (folder / "rules.toml").write_text("".join(off) + '[lists]\ndatacenters = ["servers.txt"]\n')
    return folder / "rules.toml"


def adtally(logs: Path, rules: Path) -> list[str]:
    run = [sys.executable, "-m", "adtally.pipelines", "backfill", "--quiet"]
    return [*run, "--input", str(logs), "--rules", str(rules)]


def peer(name: str, logs: Path) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.peers.{name}_job", str(logs)]


def measured(name: str, command: list[str]) -> Measured:
    """Run a job once in a fresh folder."""
    output = DATA / "out"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    target = ["--output", str(output)] if name.startswith("adtally") else [str(output)]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, *target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with Usage(process.pid) as used:
        out, err = process.communicate()
        wall = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{name} failed with {process.returncode}:\n{err[-3000:]}")
    totals = own_totals(output) if name.startswith("adtally") else json.loads(out.splitlines()[-1])
    return Measured(wall, used.cpu, used.peak_mb, totals)


def own_totals(output: Path) -> dict[str, int]:
    import duckdb

    sql = duckdb.connect()
    sql.execute((output / "views.sql").read_text())
    row = sql.execute(
        """SELECT (SELECT count(*) FROM event_rows), sum(impressions), sum(clicks),
            sum(conversions), sum(cost_micros), count(*), (SELECT count(*) FROM flags)
        FROM summaries"""
    ).fetchall()[0]
    names = ("events", "impressions", "clicks", "conversions", "cost", "rows", "flags")
    return dict(zip(names, map(int, row), strict=True))


def check(runs: dict[str, list[Measured]]) -> None:
    """All totals agree; cost up to the conflicting copies, of which each engine takes one."""
    reference = runs["duckdb"][0].totals
    for name, several in runs.items():
        for one in several:
            same = [key for key in SAME if key != "flags" or name != ALL_RULES]
            differing = {key for key in same if one.totals[key] != reference[key]}
            if differing or abs(one.totals["cost"] - reference["cost"]) > 7 * EVENTS * 0.001:
                raise RuntimeError(f"{name} differs in {differing}: {one.totals} != {reference}")


def report(runs: dict[str, list[Measured]], logs: Path) -> None:
    base = medians(runs["duckdb"])
    events = runs["duckdb"][0].totals["events"]
    stored = sum(path.stat().st_size for path in logs.rglob("*.gz")) / 1e6
    lines = [
        "# Benchmarks",
        "",
        "`make bench` writes this page. Figures are of one machine and one day; the ratios are "
        "what counts.",
        "",
        f"Job: {events:,} events ({stored:.0f} MB in hourly gzip files, 2,000 advertisers, 0.5% "
        "malformed, 1% repeated) to a Parquet event log and summaries per advertiser and minute "
        "with a clicks-per-address flag. Start-up included; medians of "
        f"{ROUNDS} interleaved rounds. All engines agreed on events, impressions, clicks, "
        "conversions, rows and flags, and on cost but for copies that conflict.",
        "",
        "adtally does more than its peers here: dead letters with the reason, unknown fields kept, "
        "row groups sorted by advertiser, mergeable uniques, counts that have to add up.",
        "",
        "| engine | wall s | CPU s | events/s | peak MB | wall / DuckDB | CPU / DuckDB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, several in runs.items():
        wall, cpu, peak = medians(several)
        lines.append(
            f"| {name} | {wall:.1f} | {cpu:.1f} | {events / wall:,.0f} | {peak:,.0f} | "
            f"{wall / base[0]:.2f} | {cpu / base[1]:.2f} |"
        )
    packages = ("apache-beam", "polars", "pyarrow", "duckdb", "pyspark")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    today = datetime.datetime.now(datetime.UTC).date()
    lines += [
        "",
        f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}.",
        "",
        "![wall time and CPU time beside DuckDB](benchmarks.svg)",
    ]
    notes = ROOT / "docs" / "benchmarks-notes.md"
    if notes.exists():
        lines += ["", notes.read_text(encoding="utf-8").strip()]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chart(runs)


def medians(several: list[Measured]) -> tuple[float, float, float]:
    return (
        statistics.median(one.wall for one in several),
        statistics.median(one.cpu for one in several),
        statistics.median(one.peak_mb for one in several),
    )


def chart(runs: dict[str, list[Measured]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3), sharey=True)
    names = list(runs)
    for axis, index, title in zip(axes, range(3), ("wall s", "CPU s", "peak MB"), strict=True):
        values = [medians(runs[name])[index] for name in names]
        colours = ["#2a6f97" if name.startswith("adtally") else "#b0b7bd" for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2)
        axis.set_title(title)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.tight_layout()
    pyplot.rcParams["svg.hashsalt"] = "adtally"
    figure.savefig(ROOT / "docs" / "benchmarks.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
