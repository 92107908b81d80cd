"""``make bench-stream``: from event to searchable document, with all servers on this machine.

Each probe is a click of an advertiser of its own, put into Kinesis under a steady load. Its latency
ends when an ordinary search, without a refresh that is asked for, first finds its summary. With
``--minutes`` the load goes on, and the size of checkpoints is written down as well. Prints a table
for docs/streaming.md.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from click.testing import CliRunner
from elasticsearch import ApiError, Elasticsearch

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from tests import streams

STREAM = "latency"
LINES_A_SECOND = int(os.environ.get("ADTALLY_BENCH_RATE", "200"))
PROBES_A_SECOND = 5
WARM_UP_SECONDS = 40
MINUTES = float(os.environ.get("ADTALLY_BENCH_MINUTES", "2"))
LATENESS = os.environ.get("ADTALLY_BENCH_LATENESS", "1h")
PANE_SECONDS = (1, 10)
LOOK_SECONDS = 0.1
REPORT_SECONDS = 300


def main() -> None:
    os.environ.update(streams.AWS)
    folder = Path(tempfile.mkdtemp(prefix="adtally-latency-"))
    print("| early panes every | lines/s | probes | p50 s | p90 s | p99 s | most s |", flush=True)
    print("|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    panes = [int(given) for given in sys.argv[1:]] or PANE_SECONDS
    with KinesisServer(folder / "kinesis") as kinesis, ElasticsearchNode() as node:
        for seconds in panes:
            with FlinkCluster() as cluster:
                found = measured(folder, kinesis, node, cluster, seconds)
            quantiles = " | ".join(f"{np.quantile(found, q):.2f}" for q in (0.5, 0.9, 0.99, 1))
            print(f"| {seconds} s | {LINES_A_SECOND} | {len(found)} | {quantiles} |", flush=True)


def measured(
    folder: Path,
    kinesis: KinesisServer,
    node: ElasticsearchNode,
    cluster: FlinkCluster,
    pane_seconds: int,
) -> list[float]:
    """Seconds from put to found, of each probe after the first ones."""
    name = f"{STREAM}-{pane_seconds}"
    client = streams.create_stream(kinesis.url, name, 2)
    arguments = (
        *("stream", "--source", f"kinesis://{name}", "--kinesis-region", "us-east-1"),
        *("--kinesis-endpoint", kinesis.url, "--output", str(folder / name)),
        *("--elasticsearch", node.url, "--elasticsearch-setup"),
        *("--elasticsearch-index-prefix", name, "--pane-every", f"{pane_seconds}s"),
        *("--allowed-lateness", LATENESS, *cluster.arguments(), "--detach"),
    )
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    seen: dict[str, float] = {}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(node.url, name, seen, ended))
    watcher.start()
    sent: dict[str, float] = {}
    began = time.monotonic()
    reported = began
    tick = began
    while time.monotonic() < began + WARM_UP_SECONDS + MINUTES * 60:
        feed(client, name, sent)
        tick += 1
        time.sleep(max(0.0, tick - time.monotonic()))
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"{reported - began:.0f} s: {state(cluster)}", file=sys.stderr, flush=True)
    wanted = [probe for probe, at in sent.items() if at > began + WARM_UP_SECONDS]
    streams.until(lambda: all(probe in seen for probe in wanted), "all probes are found")
    ended.set()
    watcher.join()
    print(f"checkpoints: {state(cluster)}", file=sys.stderr, flush=True)
    return [seen[probe] - sent[probe] for probe in wanted]


def feed(client: Any, name: str, sent: dict[str, float]) -> None:
    """One second of load, and some probes."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    stamp = time.monotonic_ns()
    probes = [f"probe-{stamp}-{number}" for number in range(PROBES_A_SECOND)]
    lines = []
    for number, advertiser in enumerate(
        [*probes, *(f"adv-{n % 500}" for n in range(LINES_A_SECOND))]
    ):
        event = {"event_type": "click", "event_id": f"{stamp}-{number}", "occurred_at": now}
        lines.append(
            orjson.dumps({**event, "advertiser_id": advertiser, "ip": f"10.0.0.{number % 250}"})
        )
    # The emulator's cost is per record, and it must not be the bottleneck: 50 lines a record.
    load = [lines[start : start + 50] for start in range(PROBES_A_SECOND, len(lines), 50)]
    records = [
        {"Data": b"\n".join(some), "PartitionKey": str(stamp + number)}
        for number, some in enumerate([*([line] for line in lines[:PROBES_A_SECOND]), *load])
    ]
    at = time.monotonic()
    for start in range(0, len(records), 500):
        answer = client.put_records(StreamName=name, Records=records[start : start + 500])
        assert answer["FailedRecordCount"] == 0
    sent.update(dict.fromkeys(probes, at))


def watch(url: str, prefix: str, seen: dict[str, float], ended: threading.Event) -> None:
    """Note when each probe is first found."""
    with contextlib.closing(connect(ElasticsearchConfig((url,), prefix))) as client:
        while not ended.wait(LOOK_SECONDS):
            try:
                found = recent_probes(client, prefix)
            except ApiError as error:
                if error.status_code != 503:  # what an index that is being made answers
                    raise
                continue
            at = time.monotonic()
            for probe in found:
                seen.setdefault(probe, at)


def recent_probes(client: Elasticsearch, prefix: str) -> list[str]:
    """Probes whose summaries an ordinary search finds."""
    answer = client.search(
        index=f"{prefix}-summaries-*",
        ignore_unavailable=True,
        allow_no_indices=True,
        size=5_000,
        query={
            "bool": {
                "filter": [
                    {"prefix": {"advertiser_id": "probe-"}},
                    {"range": {"updated_at": {"gte": "now-90s"}}},
                ]
            }
        },
        source=["advertiser_id"],
    )
    return [hit["_source"]["advertiser_id"] for hit in answer["hits"]["hits"]]


def state(cluster: FlinkCluster) -> str:
    """What the last checkpoints weigh and take."""
    (job,) = cluster.jobs()
    known = cluster.manager.get(f"/jobs/{job}/checkpoints")
    counts, latest = known["counts"], known["latest"]["completed"]
    return (
        f"{counts['completed']} whole, {counts['failed']} failed; the last "
        f"{latest['state_size'] / 1e6:.1f} MB in {latest['end_to_end_duration']} ms"
    )


if __name__ == "__main__":
    main()
