"""A Kinesis server on this machine: kinesis-mock, from its npm package, over plain HTTP."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adtally.runners.local.service import (
    POLL_SECONDS,
    Service,
    ServiceFailed,
    answers,
    appearing,
    cache_folder,
    call,
    free_port,
    require,
)

if TYPE_CHECKING:
    from botocore.client import BaseClient

VERSION: Final = "0.6.2"
REGION: Final = "us-east-1"
SHARD_LIMIT: Final = 1_000
_PRELOAD = Path(__file__).parent / "kinesis" / "preload.js"
_DELAYED = (
    "CREATE_STREAM",
    "DELETE_STREAM",
    "REGISTER_STREAM_CONSUMER",
    "DEREGISTER_STREAM_CONSUMER",
    "START_STREAM_ENCRYPTION",
    "STOP_STREAM_ENCRYPTION",
    "MERGE_SHARDS",
    "SPLIT_SHARD",
    "UPDATE_SHARD_COUNT",
    "UPDATE_STREAM_MODE",
)
"""Calls that the server slows down by 500 ms each unless told otherwise."""


def install(version: str = VERSION) -> Path:
    """Fetch the npm package, once; returns its folder. Safe to repeat and to run twice at a time.

    Raises:
        MissingSystemPart: without Node.js or npm.
        ServiceFailed: npm fails, with the end of what it said.
    """
    target = cache_folder() / f"kinesis-local-{version}"
    if not target.exists():
        require(("node", "npm"), "Kinesis on this machine", "nodejs npm")
        with appearing(target) as scratch:
            scratch.mkdir()
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(scratch)]
            call([*command, f"kinesis-local@{version}"], cwd=scratch)
    return target / "node_modules" / "kinesis-local"


class KinesisServer(Service):
    """One Kinesis server; a context manager that starts and stops it.

    With a data folder, streams and records survive: all of them over :meth:`stop` and
    :meth:`start`; over :meth:`kill`, what was there at the last whole write, so up to
    ``persist_seconds`` of puts, plus the time that a write takes, are lost. Each write is of all
    data (a second for some 50,000 records), which slows the server down. Without a folder nothing
    survives and nothing is written.

    Args:
        data: folder for data and log; in memory only where not given.
        port: a free one where not given. It stays the same over restarts.
        persist_seconds: between two writes of the data.
        detached: the server outlives the process that started it.
    """

    name = "kinesis"
    start_seconds = 60

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        *,
        persist_seconds: float = 1.0,
        detached: bool = False,
    ) -> None:
        super().__init__(data, port, detached=detached)
        self._persist_seconds = persist_seconds
        self._tls_port = free_port()  # the server insists on one

    def command(self) -> list[str]:
        self._folder = install()
        require(("node",), "Kinesis on this machine", "nodejs")
        return ["node", "--require", str(_PRELOAD.absolute()), "main.js"]

    def folder(self) -> Path:
        return self._folder  # the server reads its server.json there

    def environment(self) -> dict[str, str]:
        return {
            **{f"{name}_DURATION": "0ms" for name in _DELAYED},
            "KINESIS_MOCK_PLAIN_PORT": str(self.port),
            "KINESIS_MOCK_TLS_PORT": str(self._tls_port),
            "SHOULD_PERSIST_DATA": "false" if self._temporary else "true",
            "PERSIST_PATH": str(self.data.absolute()),
            "PERSIST_INTERVAL": f"{round(self._persist_seconds * 1000)}ms",
            "AWS_REGION": REGION,
            "SHARD_LIMIT": str(SHARD_LIMIT),
            "ON_DEMAND_STREAM_COUNT_LIMIT": str(SHARD_LIMIT),
            "LOG_LEVEL": "ERROR",
        }

    def healthy(self) -> bool:
        return answers(f"{self.url}/healthcheck")

    def client(self, **settings: Any) -> BaseClient:
        """A boto3 client of this server, with credentials that mean nothing.

        Args:
            settings: further arguments of :class:`botocore.config.Config`.
        """
        return aws_client("kinesis", self.url, **settings)


def make_stream(url: str, name: str, shards: int, wait_seconds: float = 30) -> None:
    """A stream, ready for use; one of this name that is there already stays as it is.

    Raises:
        ServiceFailed: it is not ready in time.
    """
    client: Any = aws_client("kinesis", url)
    with contextlib.suppress(client.exceptions.ResourceInUseException):
        client.create_stream(StreamName=name, ShardCount=shards)
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            summary = client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
            if summary["StreamStatus"] == "ACTIVE":
                return
        time.sleep(POLL_SECONDS)
    raise ServiceFailed(f"stream {name} is not ready after {wait_seconds:.0f} s")


def aws_client(service: str, url: str, **settings: Any) -> BaseClient:
    """A boto3 client of a server on this machine, with credentials that mean nothing."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(**{"connect_timeout": 5, "read_timeout": 20, **settings}),
    )
