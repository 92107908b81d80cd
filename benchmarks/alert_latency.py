"""``python -m benchmarks.alert_latency``: from a pane that fires to an alert that can be read.

Each probe is a burst of clicks from one address on an advertiser of its own, put into Kinesis under
a steady load; its alert is read back from another stream. On Prism the workers run inside this
process, so the moment when the tally of the pane began is known; on Flink (``flink`` as an
argument) only the way from the put is. Prints rows for docs/alerts.md.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.pipelines.stream import stream
from adtally.pipelines.stream_cli import stream_request
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from adtally.transforms import tally_windows
from adtally.transforms.tally import Tally, TallySpec, tally
from tests import streams

LINES_A_SECOND = int(os.environ.get("ADTALLY_BENCH_RATE", "200"))
SECONDS = int(os.environ.get("ADTALLY_BENCH_SECONDS", "60"))
PROBES_A_SECOND = 3
CLICKS = 31  # one more than givt_click_rate_ip lets pass
WARM_UP_SECONDS = 40
PANE_SECONDS = 1
LOOK_SECONDS = 0.05

Times = dict[str, float]


def main() -> None:
    os.environ.update(streams.AWS)
    runner = sys.argv[1] if len(sys.argv) > 1 else "prism"
    folder = Path(tempfile.mkdtemp(prefix="adtally-alerts-"))
    fired: Times = {}
    tally_windows.tally = noting(fired)
    with KinesisServer(folder / "kinesis") as kinesis:
        client = streams.create_stream(kinesis.url, "events", 2)
        streams.create_stream(kinesis.url, "alerts", 1)
        arguments = (
            *("--source", "kinesis://events", "--kinesis-region", "us-east-1"),
            *("--kinesis-endpoint", kinesis.url, "--output", str(folder / "out")),
            *("--alerts", "kinesis://alerts", "--pane-every", f"{PANE_SECONDS}s"),
        )
        with running(runner, arguments):
            sent, seen = probed(client)
    print("| runner | from | probes | p50 s | p90 s | p99 s | most s |")
    print("|---|---|--:|--:|--:|--:|--:|")
    if runner == "prism":
        report("Prism", "the pane's tally begins", [seen[one] - fired[one] for one in sent])
    waits = [seen[one] - sent[one] for one in sent]
    report(runner.capitalize(), f"`put_records`, panes every {PANE_SECONDS} s", waits)


def noting(fired: Times) -> Any:
    """The tally, noting when the first pane that flags an advertiser began."""

    def noted(slices: Sequence[pa.Table], spec: TallySpec) -> Tally:
        begun = time.monotonic()
        result = tally(slices, spec)
        for row in result.flags.select(["advertiser_id", "flags"]).to_pylist():
            if row["flags"]:
                fired.setdefault(row["advertiser_id"], begun)
        return result

    return noted


@contextlib.contextmanager
def running(runner: str, arguments: tuple[str, ...]) -> Iterator[None]:
    """The stream, inside this process or on a cluster of its own."""
    if runner == "flink":
        with FlinkCluster() as cluster:
            given = ["stream", *arguments, *cluster.arguments(), "--detach"]
            result = CliRunner().invoke(cli, given)
            assert result.exit_code == 0, result.output
            yield
        return
    context = cli.commands["stream"].make_context("stream", list(arguments))
    _, job = stream(stream_request(context.params, (), None))
    try:
        yield
    finally:
        job.cancel()


def probed(client: Any) -> tuple[Times, Times]:
    """When each probe after the first ones was sent, and when its alert was read."""
    sent: Times = {}
    seen: Times = {}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(client, seen, ended))
    watcher.start()
    tick = begun = time.monotonic()
    while time.monotonic() < begun + WARM_UP_SECONDS + SECONDS:
        feed(client, sent)
        tick += 1
        time.sleep(max(0.0, tick - time.monotonic()))
    wanted = {one: at for one, at in sent.items() if at > begun + WARM_UP_SECONDS}
    streams.until(lambda: all(one in seen for one in wanted), "all alerts are read")
    ended.set()
    watcher.join()
    return wanted, seen


def feed(client: Any, sent: Times) -> None:
    """One second of load, and some probes, at the present: few of them in two windows."""
    now = datetime.datetime.now(datetime.UTC)
    stamp = time.monotonic_ns()
    event = {"event_type": "click", "occurred_at": now.isoformat()}
    load = [
        orjson.dumps(
            {
                **event,
                "event_id": f"{stamp}-{number}",
                "advertiser_id": f"adv-{number % 500}",
                "ip": f"10.{number % 100}.{stamp % 250}.{number % 250}",
            }
        )
        for number in range(LINES_A_SECOND)
    ]
    records = [load[start : start + 50] for start in range(0, len(load), 50)]
    probes = [f"probe-{stamp}-{number}" for number in range(PROBES_A_SECOND)]
    for probe in probes:
        burst = {**event, "advertiser_id": probe, "ip": "192.0.2.1"}
        records.append([orjson.dumps({**burst, "event_id": str(at)}) for at in range(CLICKS)])
    at = time.monotonic()
    answer = client.put_records(
        StreamName="events",
        Records=[
            {"Data": b"\n".join(lines), "PartitionKey": str(number)}
            for number, lines in enumerate(records)
        ],
    )
    assert answer["FailedRecordCount"] == 0
    sent.update(dict.fromkeys(probes, at))


def watch(client: Any, seen: Times, ended: threading.Event) -> None:
    """Note when each probe's alert is first read."""
    (shard,) = client.list_shards(StreamName="alerts")["Shards"]
    iterator = client.get_shard_iterator(
        StreamName="alerts", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    while not ended.wait(LOOK_SECONDS):
        answer = client.get_records(ShardIterator=iterator)
        iterator = answer["NextShardIterator"]
        at = time.monotonic()
        for record in answer["Records"]:
            alert = orjson.loads(record["Data"])
            if alert.get("rule") == "givt_click_rate_ip":
                seen.setdefault(alert["advertiser_id"], at)


def report(runner: str, begins: str, waits: list[float]) -> None:
    quantiles = " | ".join(f"{np.quantile(waits, q):.2f}" for q in (0.5, 0.9, 0.99, 1))
    print(f"| {runner} | {begins} | {len(waits)} | {quantiles} |", flush=True)


if __name__ == "__main__":
    main()
