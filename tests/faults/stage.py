"""A running stream with all that it needs, to be broken."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import elastic_transport
import elasticsearch
from click.testing import CliRunner

from adtally.io.dead_letters import decode_lines
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from adtally.runners.local.service import MissingSystemPart
from tests import streams
from tests.fault_proxy import FaultProxy
from tests.faults import machine, watch
from tests.faults.load import (
    Difference,
    Expected,
    Log,
    Producer,
    compared,
    compared_events,
    counted,
    logged,
    summed,
)
from tests.stores import S3Store

STREAM = "faults"
BUCKET_KEY = "live"
QUICK = ("--watermark-lag", "2s", "--pane-every", "2s", "--flush-every", "5s")
RECOVER_SECONDS = 400.0
"""What is not well again after this is written down as it is."""


@dataclass(frozen=True)
class Setting:
    """How a stream runs.

    Attributes:
        name: of the setting; faults that share one share the running stream.
        runner: ``flink`` or ``prism``.
        proxied: whether proxies stand before Elasticsearch, Kinesis and S3.
        output: ``disk``, ``small`` (a file system of some MB), ``slow`` (one through FUSE) or
            ``s3``.
        small_checkpoints: Flink's checkpoints lie on a file system of some MB.
        clock: whose clock can be moved: ``workers``, ``machine`` (the TaskManager's too), or empty.
    """

    name: str
    runner: str = "flink"
    proxied: bool = False
    output: str = "disk"
    small_checkpoints: bool = False
    clock: str = ""


@dataclass(frozen=True)
class Run:
    """What one fault cost, once.

    Attributes:
        sent: lines from before the fault until it was over.
        counted: events in Elasticsearch's summaries in the end.
        expected: the same as SQL says.
        lost, double, wrong: over Elasticsearch, the views over summaries and over the log.
        twice: rows of the log that its files hold more than once, of this fault.
        seconds: until all was equal, from the fault on, less ``away``; None where it never was.
        away: how long the fault lasted.
        restarts: of the job, by Flink; None where nobody counted.
        seen: what a user would find in the logs.
        load: of the machine (one minute's average) before the fault.
    """

    sent: int
    counted: int
    expected: int
    lost: int
    double: int
    wrong: int
    twice: int
    seconds: float | None
    away: float
    restarts: int | None
    seen: list[str]
    load: float


class Stage:
    """A stream that runs under load in one setting.

    Args:
        folder: for everything.
        setting: see there.
        events: how many are made up for the load.
        rate: lines a second.
    """

    def __init__(self, folder: Path, setting: Setting, events: int, rate: int) -> None:
        self.folder = folder
        self.setting = setting
        self._events = events
        self._rate = rate
        self._undo = contextlib.ExitStack()
        self._twice = 0
        self._small: dict[str, machine.SmallDisk | MissingSystemPart] = {}
        self.live = folder / "live"
        self.sent = folder / "sent"
        self.kinesis = KinesisServer(folder / "kinesis", persist_seconds=10)
        self.node = ElasticsearchNode(folder / "elasticsearch")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start servers, stream and load."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        logs = streams.recent_logs(self.folder / "made", self._events)
        lines = streams.lines_of(logs)
        random.Random(1).shuffle(lines)
        self.sent.mkdir()
        for server in (self.kinesis, self.node):
            server.start()
            self._undo.callback(server.stop)
        self.client = streams.create_stream(self.kinesis.url, STREAM, 3)
        self._prepare_output()
        self.kinesis_url, self.node_url = self.kinesis.url, self.node.url
        if self.setting.proxied:
            self.before_kinesis = self._undo.enter_context(FaultProxy(self.kinesis.url))
            self.before_node = self._undo.enter_context(FaultProxy(self.node.url))
            self.kinesis_url, self.node_url = self.before_kinesis.url, self.before_node.url
        if self.setting.runner == "flink":
            self._start_flink()
            self.submit()
        else:
            self.start_prism()
        self.producer = Producer(self.client, STREAM, lines, self._rate, self.sent / "sent.jsonl")
        self.producer.start()
        streams.until(lambda: bool(logged(self.readable()).events), "the stream flows")

    def _prepare_output(self) -> None:
        self.output = str(self.live)
        self._storage: tuple[str, ...] = ()
        if self.setting.output == "small":
            self._mount("output", self.live)
        if self.setting.output == "slow":
            self.slow = self._undo.enter_context(machine.SlowDisk(self.folder / "real", self.live))
        if self.setting.output == "s3":
            self.store = S3Store()
            self._undo.callback(self.store.stop)
            self.bucket = self.store.make_bucket()
            self.output = f"s3://{self.bucket}/{BUCKET_KEY}"
            self.before_store = self._undo.enter_context(FaultProxy(self.store.url))
            self._storage = self.store.arguments(self.before_store.url)

    def _mount(self, name: str, place: Path) -> None:
        """A small disk; where nobody may mount one it is a folder, and its faults are skipped."""
        try:
            self._small[name] = self._undo.enter_context(machine.small_disk(place))
        except MissingSystemPart as error:
            self._small[name] = error

    def small_disk(self, name: str) -> machine.SmallDisk:
        """The small disk of ``output`` or ``checkpoints``."""
        found = self._small[name]
        if isinstance(found, MissingSystemPart):
            raise found
        return found

    def _start_flink(self) -> None:
        if self.setting.small_checkpoints:
            self._mount("checkpoints", self.folder / "flink" / "manager" / "checkpoints")
        self.flink = FlinkCluster(self.folder / "flink", slots=4)
        if self.setting.clock:
            self.clock = machine.Clock(self.folder / "clock")
            machine.give_clock(self.flink, self.clock, self.setting.clock == "machine")
        self._undo.callback(self.flink.stop)
        self.flink.start()

    def arguments(self, *more: str) -> tuple[str, ...]:
        """The command line of the stream."""
        runner: tuple[str, ...] = ()
        if self.setting.runner == "flink":
            runner = (*self.flink.arguments(), "--flink-checkpoint-every", "5s")
        return (
            *("stream", "--source", f"kinesis://{STREAM}", "--kinesis-region", "us-east-1"),
            *("--kinesis-endpoint", self.kinesis_url, "--output", self.output, *QUICK),
            *("--allowed-lateness", f"{streams.LATENESS_SECONDS}s"),
            *("--elasticsearch", self.node_url, "--elasticsearch-setup"),
            *("--elasticsearch-index-prefix", STREAM, *runner, *self._storage, *more),
        )

    def submit(self, *more: str) -> None:
        """Start the stream on Flink."""
        result = CliRunner().invoke(cli, list(self.arguments("--detach", *more)))
        assert result.exit_code == 0, result.output

    def start_prism(self) -> None:
        """Start the stream on Prism, in a process of its own."""
        running = streams.running(*self.arguments(), log=self.folder / "stream.log")
        self.process = self._undo.enter_context(running)

    def measure(
        self, inject: Callable[[Stage, random.Random], float | None], rng: random.Random
    ) -> Run:
        """Let a fault happen under load, and measure until nothing is missing and nothing double.

        Args:
            inject: does it; returns how long something was away, which is not counted.
            rng: draws the moment.
        """
        before, load = self.producer.sent, machine.load()
        time.sleep(rng.uniform(3, 8))  # the load is on, and the moment is any in a checkpoint
        notes = watch.Notes(self)
        began = time.monotonic()
        away = inject(self, rng) or 0.0
        time.sleep(2)
        with self.producer.held():
            expected = Expected.of(self.sent)
            seconds, difference, rows, log = self._recovered(expected, began + away)
            twice = log.twice - self._twice
            self._twice = log.twice
            sent = self.producer.sent - before
            return Run(
                sent=sent,
                counted=counted(rows),
                expected=expected.counted,
                lost=difference.lost,
                double=difference.double,
                wrong=difference.wrong,
                twice=twice,
                seconds=seconds,
                away=round(away, 1),
                restarts=notes.restarts(),
                seen=notes.seen(),
                load=load,
            )

    def _recovered(
        self, expected: Expected, began: float
    ) -> tuple[float | None, Difference, list[Any], Log]:
        deadline = time.monotonic() + RECOVER_SECONDS
        while True:
            try:
                rows = self.searchable()
                output = self.readable()
                difference = compared(rows, expected.summaries)
                if not difference:
                    difference += compared(summed(output), expected.summaries)
                log = logged(output)
                difference += compared_events(log.events, expected.events)
                if not difference:
                    return round(time.monotonic() - began, 1), difference, rows, log
            except (
                duckdb.Error,
                OSError,
                elasticsearch.ApiError,
                elastic_transport.TransportError,
            ):
                if time.monotonic() > deadline:
                    raise
            else:
                if time.monotonic() > deadline:
                    return None, difference, rows, log
            time.sleep(0.5)

    def searchable(self) -> list[Any]:
        """Summaries as Elasticsearch has them; those that it refused, as dead letters have them."""
        newest: dict[Any, dict[str, Any]] = {}
        for row in (*streams.documents(self.node.url, STREAM), *self._refused()):
            key = (row["window_start"], row["advertiser_id"], row["currency"])
            if key not in newest or newest[key]["version"] < row["version"]:
                newest[key] = row
        return streams.document_rows(newest.values())

    def _refused(self) -> list[dict[str, Any]]:
        return [
            json.loads(letter.payload)
            for path in sorted(self.readable().glob("dead-letters/**/*.gz"))
            for letter in decode_lines(path.read_bytes())
            if letter.stage == "elasticsearch" and letter.source.startswith(f"{STREAM}-summaries")
        ]

    def readable(self) -> Path:
        """The output as a folder."""
        if self.setting.output != "s3":
            return self.folder / "real" if self.setting.output == "slow" else self.live
        for key in self.store._keys(self.bucket):
            path = self.folder / "copied" / key
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                data = self.store.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                path.write_bytes(data)
        return self.folder / "copied" / BUCKET_KEY

    def enough_for(self, seconds: float) -> bool:
        """Whether the load lasts for so long."""
        return self._events - self.producer.sent > seconds * self._rate

    def stop(self) -> None:
        """End everything."""
        if hasattr(self, "producer"):
            self.producer.ended = True
        self._undo.close()
        shutil.rmtree(self.folder, ignore_errors=True)
