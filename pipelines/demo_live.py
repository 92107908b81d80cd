"""The live part of ``make demo``: a minute of events through Kinesis, Prism and Elasticsearch."""

from __future__ import annotations

import bisect
import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from adtally.io.kinesis_client import KinesisConfig
from adtally.io.kinesis_producer import put_lines
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.feed_cli import lines_of
from adtally.runners.local.kinesis_server import REGION, KinesisServer, make_stream

SECONDS: Final = int(os.environ.get("ADTALLY_DEMO_SECONDS", "60"))
EVENTS_AN_HOUR: Final = 150_000
MOST_A_SECOND: Final = 100
"""Well above the pace of the events; it also makes the calls small, so that none waits long."""

STREAM: Final = "demo"
PREFIX: Final = "demo-live"
SETTLE_SECONDS: Final = 120
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
_RECEIVED: Final = re.compile(rb'"received_at":"([^"]+)"')
HOUR_MS: Final = 3_600_000


def live(folder: Path, elasticsearch: str, console: Console) -> None:
    """Send made-up events as they happen, and show their summaries advance.

    Args:
        folder: for the output and the logs of servers.
        elasticsearch: URL of a node.
        console: to show it on.

    Raises:
        MissingSystemPart: Node.js or Prism is not to be had.
        SystemExit: the stream ended, or counts differently from what was sent.
    """
    from adtally.runners.prism import find_prism

    find_prism()  # builds it, the first time
    os.environ.update(CREDENTIALS)
    with KinesisServer() as server:
        make_stream(server.url, STREAM, 2)
        with _stream(folder, server.url, elasticsearch) as process:
            feeder = Feeder(KinesisConfig(STREAM, REGION, server.url), folder / "live-made")
            feeder.start()
            _watch(feeder, process, elasticsearch, console)


class Feeder(threading.Thread):
    """Sends every event when it would arrive; ``sent`` says how many."""

    def __init__(self, config: KinesisConfig, folder: Path) -> None:
        super().__init__(daemon=True)
        now_ms = time.time_ns() // 1_000_000
        generate(
            GenerateConfig(
                events=2 * EVENTS_AN_HOUR,
                seed=1,
                output=str(folder),
                advertisers=200,
                hours=2,
                start_ms=now_ms // HOUR_MS * HOUR_MS,
                malformed_ratio=0,
                late_ratio=0,
            )
        )
        arriving = sorted((_received(line), line) for line in lines_of([str(folder / "logs")]))
        first = bisect.bisect(arriving, (time.time(), b""))
        self._arriving = arriving[first:]
        self._config = config
        self.sent = 0

    def run(self) -> None:
        until = time.time() + SECONDS
        for count in put_lines(self._config, self._due(until), MOST_A_SECOND):
            self.sent = count

    def _due(self, until: float) -> Iterator[bytes]:
        for at, line in self._arriving:
            if time.time() > until:
                return
            while at > time.time():
                time.sleep(0.02)
            yield line


@contextlib.contextmanager
def _stream(folder: Path, kinesis: str, elasticsearch: str) -> Iterator[subprocess.Popen[bytes]]:
    """``adtally stream`` in a process of its own."""
    command = [
        *(sys.executable, "-m", "adtally.pipelines", "stream", "--output", str(folder / "live")),
        *("--source", f"kinesis://{STREAM}", "--kinesis-region", REGION),
        *("--kinesis-endpoint", kinesis, "--start", "TRIM_HORIZON"),
        *("--elasticsearch", elasticsearch, "--elasticsearch-setup"),
        *("--elasticsearch-index-prefix", PREFIX),
        *("--window", "10s", "--pane-every", "2s", "--watermark-lag", "5s", "--flush-every", "10s"),
    ]
    with (folder / "live.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _watch(
    feeder: Feeder, process: subprocess.Popen[bytes], elasticsearch: str, console: Console
) -> None:
    """Print a line every five seconds until all that was sent is counted."""
    from elasticsearch import Elasticsearch

    console.print(
        "time      sent   counted  duplicates  windows  closed  last pane", highlight=False
    )
    deadline = time.monotonic() + SECONDS + SETTLE_SECONDS
    with contextlib.closing(Elasticsearch(elasticsearch)) as client:
        while True:
            time.sleep(5)
            if process.poll() is not None:
                sys.exit(f"the demo failed: the stream ended with {process.returncode}")
            sent = feeder.sent
            found = counted(client)
            now = f"{datetime.datetime.now(datetime.UTC):%H:%M:%S}"
            console.print(
                f"{now}  {sent:>8,}  {found['events']:>7,}  "
                f"{found['duplicates']:>10,}  {found['windows']:>7}  {found['closed']:>6}  "
                f"{found['updated']}",
                highlight=False,
            )
            if not feeder.is_alive() and found["events"] + found["duplicates"] == sent > 0:
                console.print(f"[green]all {sent:,} are counted[/]", highlight=False)
                return
            if time.monotonic() > deadline:
                sys.exit(f"the demo failed: {sent:,} were sent and {found} is counted")


def counted(client: Any) -> dict[str, Any]:
    """What Elasticsearch has by now."""
    index = f"{PREFIX}-summaries-*"
    client.indices.refresh(index=index, ignore_unavailable=True)
    names = ("impressions", "clicks", "conversions", "duplicates")
    found = client.search(
        index=index,
        ignore_unavailable=True,
        size=0,
        aggs={
            **{name: {"sum": {"field": name}} for name in names},
            "windows": {"cardinality": {"field": "window_start"}},
            "closed": {
                "filter": {"terms": {"pane_timing": ["on_time", "late"]}},
                "aggs": {"windows": {"cardinality": {"field": "window_start"}}},
            },
            "updated": {"max": {"field": "updated_at"}},
        },
    ).get("aggregations")
    if not found:
        return {"events": 0, "duplicates": 0, "windows": 0, "closed": 0, "updated": ""}
    updated = found["updated"].get("value_as_string") or ""
    return {
        "events": round(sum(found[name]["value"] for name in names[:3])),
        "duplicates": round(found["duplicates"]["value"]),
        "windows": found["windows"]["value"],
        "closed": found["closed"]["windows"]["value"],
        "updated": updated[11:19],
    }


def _received(line: bytes) -> float:
    found = _RECEIVED.search(line)
    assert found is not None, "the generator writes received_at"
    return datetime.datetime.fromisoformat(found[1].decode()).timestamp()
