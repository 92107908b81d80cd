"""Made-up traffic that the dashboard's tests know, and dashboards that run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOUR_MS = 3_600_000
START = 1_772_323_200_000  # 2026-03-01T00:00:00Z
MONTHS_LATER = START + 60 * 24 * HOUR_MS
UNTIL = "2026-03-01T03:00:00Z"
ADVERTISERS = ("acme", "béta, & co", "c/../3")


def lines() -> Iterator[dict[str, Any]]:
    """Three hours of three advertisers, two of them under attack, some of it in two currencies."""
    number = 0

    def event(kind: str, at_s: int, **more: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        at = datetime.datetime.fromtimestamp(START / 1000 + at_s, datetime.UTC)
        later = at + datetime.timedelta(seconds=more.pop("late", 1))
        return {
            "event_id": f"e{number:06}",
            "event_type": kind,
            "occurred_at": at.isoformat(),
            "received_at": later.isoformat(),
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0",
            **more,
        }

    for at in range(0, 3 * 3_600, 20):
        who = ADVERTISERS[at // 20 % 3]
        seen = {"advertiser_id": who, "campaign_id": None if at % 7 == 0 else f"k{at % 5}"}
        user = {"user_id": f"u{at}", "ip": f"198.51.{at // 250 % 250}.{at % 250}"}
        yield event("impression", at, **seen, **user, cost_micros=1_000 + at, currency="EUR")
        if at % 60 == 0:
            money = {"cost_micros": 250_000, "currency": "USD" if at % 120 else "EUR"}
            yield event("click", at + 5, **seen, **user, **money)
        if at % 600 == 0:
            paid = {"revenue_micros": 5_000_000, "currency": "EUR"}
            yield event("conversion", at + 9, **seen, **user, **paid)
    robot = {"advertiser_id": "acme", "campaign_id": "k1", "currency": "EUR", "cost_micros": 90_000}
    for at in range(3_720, 3_770):  # many clicks of an address in a minute
        yield event("click", at, **robot, ip="203.0.113.66", user_id=f"r{at}")
    for at in range(4_000, 4_600, 6):  # a user like a clock, over ten minutes
        yield event("click", at, **robot, ip=f"192.0.2.{at % 200}", user_id="clockwork")
    for at in range(1_000, 1_600, 6):  # another one, too late for the first count
        yield event("click", at, **robot, ip=f"192.0.2.{at % 199}", user_id="l", late=7 * 3_600)


def logs(folder: Path) -> Path:
    """The lines as a file, and one that is none."""
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines())
    (folder / "a.jsonl").write_text(text + '{"<script>no record\n')
    return folder


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A dashboard as people start it; gives its address."""
    command = [sys.executable, "-m", "adtally.pipelines", "dashboard", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith("adtally dashboard: http"), told
        yield told.split()[2].rstrip("/")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
