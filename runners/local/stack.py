"""The real servers on this machine, as one: up, down, status, over any number of processes.

What runs is written to ``stack.json`` in the stack's folder, with process ids and the times when
the processes began, so that a process id that was used again is never taken for a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.gcs_server import GcsServer
from adtally.runners.local.kinesis_server import KinesisServer
from adtally.runners.local.pubsub_server import PubSubServer
from adtally.runners.local.s3_server import S3Server
from adtally.runners.local.service import (
    POLL_SECONDS,
    Service,
    ServiceFailed,
    free_port,
    listens,
    require_free,
)

PORTS: Final = {
    "elasticsearch": 9200,
    "kinesis": 4567,
    "pubsub": 8085,
    "s3": 5000,
    "gcs": 4443,
    "flink": 8081,
}
"""The servers of the stack, and the ports that they take when those are free."""

_SINGLE: Final[dict[str, Callable[..., Service]]] = {
    "elasticsearch": ElasticsearchNode,
    "kinesis": KinesisServer,
    "pubsub": PubSubServer,
    "s3": S3Server,
    "gcs": GcsServer,
}
STOP_SECONDS: Final = 30.0
RELEASE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Member:
    """One process of the stack.

    Attributes:
        server: one of ``PORTS``; a Flink cluster has several processes.
        name: of the process.
        pid: its id, and that of its process group.
        began: when it was started, in seconds since the epoch.
        port: on 127.0.0.1; 0 where nothing asks it anything.
        log: file.
    """

    server: str
    name: str
    pid: int
    began: float
    port: int
    log: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.port else ""

    @property
    def state(self) -> str:
        """``up``, ``ended``, or ``silent`` for a process that takes no connection."""
        if _process(self) is None:
            return "ended"
        return "up" if not self.port or listens(self.port) else "silent"


class State(msgspec.Struct):
    """What is known of a stack: its processes, and what ``adtally stream`` needs for its Flink."""

    members: list[Member] = []
    flink_arguments: list[str] = []
    ports: dict[str, int] = {}


class Stack:
    """The servers below one folder.

    Args:
        folder: for data, logs and the state of the stack.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def state(self) -> State:
        """What was started, whether it still runs or not."""
        try:
            return msgspec.json.decode((self.folder / "stack.json").read_bytes(), type=State)
        except FileNotFoundError:
            return State()

    def up(
        self,
        servers: tuple[str, ...] = tuple(PORTS),
        ports: dict[str, int] | None = None,
        told: Callable[[str], None] = lambda line: None,
    ) -> State:
        """Start what does not run, and wait until it answers. Safe to repeat.

        Args:
            servers: some of ``PORTS``.
            ports: of servers that must have a given one.
            told: gets a line before each start.

        Raises:
            MissingSystemPart: a program is missing; what was started before stays up.
            ServiceFailed: a server does not start, or its port is taken.
        """
        with self._locked():
            state = self.state()
            for server in servers:
                members = [one for one in state.members if one.server == server]
                if members and all(one.state == "up" for one in members):
                    continue
                _end(members)
                state.members = [one for one in state.members if one.server != server]
                port = (ports or {}).get(server) or self._port(server, state)
                told(f"starting {server} on port {port}")
                for name, service in self._start(server, port, state):
                    state.members.append(_member(server, name, service))
                state.ports[server] = port
                self._keep(state)
            return state

    def down(self, servers: tuple[str, ...] = tuple(PORTS)) -> list[Member]:
        """End what runs; data stays. Returns what was ended. Safe to repeat."""
        with self._locked():
            state = self.state()
            ended = [one for one in state.members if one.server in servers and _process(one)]
            _end(ended)
            state.members = [one for one in state.members if one.server not in servers]
            self._keep(state)
            return ended

    def _start(self, server: str, port: int, state: State) -> list[tuple[str, Service]]:
        data = self.folder / server
        if server == "flink":
            cluster = FlinkCluster(data, port, slots=4, detached=True)
            cluster.start()
            state.flink_arguments = cluster.arguments()
            return [(service.data.name, service) for service in cluster.services]
        service = _SINGLE[server](data, port, detached=True)
        service.start()
        return [(service.name, service)]

    def _port(self, server: str, state: State) -> int:
        """The port of the last time, or the usual one, or a free one."""
        wanted = state.ports.get(server, PORTS[server])
        # A process that was killed just now may hold its port a little longer.
        deadline = time.monotonic() + (RELEASE_SECONDS if server in state.ports else 0)
        while True:
            with contextlib.suppress(ServiceFailed):
                require_free(wanted)
                return wanted
            if time.monotonic() >= deadline:
                return free_port()
            time.sleep(POLL_SECONDS)

    def _keep(self, state: State) -> None:
        target = self.folder / "stack.json"
        made = target.with_suffix(".new")
        made.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        made.replace(target)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Two at a time would start everything twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _member(server: str, name: str, service: Service) -> Member:
    began = psutil.Process(service.pid).create_time()
    asked = service.port if service.asked else 0
    return Member(server, name, service.pid, began, asked, str(service.log))


def _process(member: Member) -> psutil.Process | None:
    """The process, unless it ended; its id may be another's by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(member.pid)
        same = abs(process.create_time() - member.began) < 1
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _end(members: list[Member]) -> None:
    """End process groups as an operator would, the last started first."""
    for member in reversed(members):
        process = _process(member)
        if process is None:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(member.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                os.killpg(member.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # what it had started itself
            os.killpg(member.pid, signal.SIGKILL)
