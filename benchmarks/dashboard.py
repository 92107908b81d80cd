"""``python -m benchmarks.dashboard``: what the dashboard takes with 2,000 advertisers and a week.

A week of made-up events, counted by the minute and the hour into an output and a node of this
machine, once; then each question of each page, by range (one run for the first time, ``ROUNDS``
more), and each page in Chromium, from the start of the navigation to its first contentful paint.
Prints tables for docs/dashboard.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.pipelines.dashboard.board import OVERVIEW_STEPS
from adtally.pipelines.dashboard.elastic import ElasticReader
from adtally.pipelines.dashboard.log import Log
from adtally.pipelines.dashboard.reader import CHARTED, Reader
from adtally.pipelines.dashboard.view import DAY_MS, RANGES, View, view_of
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests.browsers import ARGUMENTS, chromium_path

ROOT = Path(__file__).parent.parent
EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "8000000"))
ROUNDS = int(os.environ.get("ADTALLY_BENCH_ROUNDS", "5"))
FOLDER = ROOT / "benchmarks" / "data" / f"dashboard-week-{EVENTS}"
ADVERTISERS = 2_000
END = 1_772_323_200_000 + 7 * DAY_MS
UNTIL = "2026-03-08T00:00:00Z"


def main() -> None:
    node = ElasticsearchNode(data=(FOLDER / "node").absolute())
    node.start()
    try:
        made(node.url)
        questions(node.url)
        pages(node.url)
    finally:
        node.stop()


def made(url: str) -> None:
    """The week, made once."""
    if (FOLDER / "done").exists():
        return
    logs, output = FOLDER / "logs", FOLDER / "out"
    if not logs.exists():
        what = ("--events", str(EVENTS), "--seed", "1", "--hours", "168")
        _adtally("generate", *what, "--advertisers", str(ADVERTISERS), "--output", str(FOLDER))
    started = time.monotonic()
    _adtally(
        *(
            "backfill",
            "--input",
            str(logs),
            "--output",
            str(output),
            "--rollup",
            "1h,1d",
            "--quiet",
        ),
        *("--dimensions", "campaign_id", "--elasticsearch", url, "--elasticsearch-setup"),
    )
    print(f"backfill of {EVENTS:,} events: {time.monotonic() - started:.0f} s\n")
    (FOLDER / "done").touch()


def questions(url: str) -> None:
    log = Log(str(FOLDER / "out"))
    config = ElasticsearchConfig((url,))
    with connect(config) as client:
        client.indices.refresh(index="adtally-*")
        counts = {
            kind: client.count(index=config.index_pattern(kind))["count"]
            for kind in ("summaries", "flags", "verdicts", "anomalies")
        }
    print(", ".join(f"{count:,} {kind}" for kind, count in counts.items()) + "\n")
    reader = ElasticReader(config, log.window_seconds, log.corrections)
    largest = _largest(reader)
    client = connect(config)

    def clear() -> None:  # a live index has new answers every second
        client.indices.clear_cache(index="adtally-*", request=True)

    print("| question | of | range | first ms | median ms | most ms |")
    print("|---|---|---|--:|--:|--:|")
    for name, length in RANGES.items():
        if length > 7 * DAY_MS:
            continue
        everything = view_of(60, END + DAY_MS, length, END, OVERVIEW_STEPS)
        small = view_of(60, END + DAY_MS, length, END, 24).of(*_some(reader))
        one = view_of(60, END + DAY_MS, length, END, 96).of(largest)
        asked: list[tuple[str, str, Callable[[], Any]]] = [
            ("list", "all advertisers", partial(reader.advertisers, everything)),
            ("series", "all advertisers", partial(reader.series, everything, CHARTED)),
            ("anomalies", "all advertisers", partial(reader.anomalies, everything)),
            ("clicks by step", "50 advertisers", partial(reader.sparks, small)),
            ("series", "the largest", partial(reader.series, one)),
            ("campaigns", "the largest", partial(reader.top, one, "campaign_id")),
            ("verdicts", "the largest", partial(reader.verdicts, one)),
            ("late events (files)", "the largest", partial(log.late, one)),
        ]
        for question, whose, ask in asked:
            _timed(question, whose, name, clear, ask)
    client.close()
    reader.close()
    print()


def _largest(reader: Reader) -> str:
    rows = reader.advertisers(view_of(60, END + DAY_MS, DAY_MS, END))
    return str(max(rows, key=lambda row: row["impressions"])["advertiser_id"])


def _some(reader: Reader) -> list[str]:
    rows = reader.advertisers(view_of(60, END + DAY_MS, DAY_MS, END))
    rows.sort(key=lambda row: -row["clicks"])
    return list(dict.fromkeys(row["advertiser_id"] for row in rows))[:50]


def _timed(
    question: str, whose: str, name: str, clear: Callable[[], None], ask: Callable[[], Any]
) -> None:
    taken = []
    for _ in range(1 + ROUNDS):
        clear()
        started = time.monotonic()
        ask()
        taken.append((time.monotonic() - started) * 1_000)
    first, *more = taken
    print(
        f"| {question} | {whose} | {name} | {first:.0f} | {statistics.median(more):.0f} | "
        f"{max(more):.0f} |"
    )


def pages(url: str) -> None:
    """Each page as a browser paints it, by a dashboard that has just started and later."""
    log = Log(str(FOLDER / "out"))
    reader = ElasticReader(ElasticsearchConfig((url,)), log.window_seconds, log.corrections)
    largest = _largest(reader)
    verdict = _verdict(reader, view_of(60, END + DAY_MS, 7 * DAY_MS, END).of(largest))
    reader.close()
    addresses = {"advertisers, first of all": "/?" + urlencode({"range": "6h", "until": UNTIL})}
    for name in ("1h", "6h", "24h", "7d"):
        asked = urlencode({"range": name, "until": UNTIL})
        addresses[f"advertisers, {name}"] = f"/?{asked}"
        addresses[f"the largest advertiser, {name}"] = f"/advertiser?id={largest}&{asked}"
    if verdict:
        addresses["a verdict's events"] = f"/verdict?{urlencode(verdict)}"
    addresses["freshness, 24h"] = "/health?" + urlencode({"range": "24h", "until": UNTIL})
    command = [sys.executable, "-m", "adtally.pipelines", "dashboard", "--port", "0"]
    command += ["--output", str(FOLDER / "out"), "--elasticsearch", url]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert running.stdout is not None
    base = running.stdout.readline().split()[2].rstrip("/")
    print("| page | first contentful paint, ms | again, median | most | kB |")
    print("|---|--:|--:|--:|--:|")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
            for name, address in addresses.items():
                painted, size = [], 0
                for _ in range(1 + ROUNDS):
                    context = browser.new_context(viewport={"width": 1200, "height": 850})
                    page = context.new_page()
                    answer = page.goto(base + address)
                    assert answer is not None and answer.status == 200, (name, answer)
                    size = len(answer.body())
                    painted.append(page.evaluate(_PAINT))
                    context.close()
                first, *more = painted
                print(
                    f"| {name} | {first:.0f} | {statistics.median(more):.0f} | {max(more):.0f} "
                    f"| {size / 1e3:.0f} |"
                )
            browser.close()
    finally:
        running.terminate()
        running.wait()


_PAINT = """() => new Promise(found => new PerformanceObserver(list => {
    for (const one of list.getEntriesByName('first-contentful-paint')) found(one.startTime);
}).observe({type: 'paint', buffered: true}))"""


def _verdict(reader: Reader, view: View) -> dict[str, Any]:
    found = reader.verdicts(view).newest
    if not found:
        return {}
    one = found[0]
    start = round(one["window_start"].timestamp() * 1_000)
    names = ("rule", "subject_type", "subject")
    return {"id": one["advertiser_id"], "start": start, **{name: one[name] for name in names}}


def _adtally(*arguments: str) -> None:
    command = [sys.executable, "-m", "adtally.pipelines", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
