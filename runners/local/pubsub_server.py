"""A Pub/Sub server on this machine: Google's own fake, from its Go module."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

import xxhash

from adtally.runners.local.service import (
    MissingSystemPart,
    Service,
    ServiceFailed,
    appearing,
    cache_folder,
    call,
    listens,
)

PROJECT: Final = "local-project"
RETENTION_SECONDS: Final = 7 * 86_400
_MODULE: Final = "cloud.google.com/go/pubsub/v2@v2.9.0"
_PARTS: Final = ("main.go", "go.mod", "go.sum")
_SOURCES: Final = Path(__file__).parent / "pubsub"
_MENDED: Final = (
    (
        "\t\tif m.PublishTime.Before(target) {\n\t\t\tcontinue\n\t\t}\n\t\tsub.msgs[m.ID]",
        "\t\tif m.PublishTime.Before(target) || m.Topic != sub.topic.proto.Name {\n"
        "\t\t\tcontinue\n\t\t}\n\t\tsub.msgs[m.ID]",
    ),
    (
        "// This was not preserved!\n\t\t\t\t//Message: pm,",
        "Message: &pb.PubsubMessage{Data: m.Data, Attributes: m.Attributes, MessageId: m.ID, "
        "PublishTime: timestamppb.New(m.PublishTime), OrderingKey: m.OrderingKey},",
    ),
)
"""Its seek to a time brings messages back without their content, and those of all topics; the next
pull then takes the server down."""


def missing() -> str:
    """What is missing for the server, in words; empty where nothing is."""
    if _cached().exists() or shutil.which("go"):
        return ""
    return (
        "Pub/Sub on this machine needs Go 1.21 or newer on the PATH, once, to build Google's fake "
        "server. Debian 12 has an older one: install Go's own release."
    )


def install() -> Path:
    """Build the server with Go, once, which takes a minute or two; returns the binary.

    Raises:
        MissingSystemPart: without Go.
        ServiceFailed: it cannot be built.
    """
    target = _cached()
    if not target.exists():
        if missing():
            raise MissingSystemPart(missing())
        with appearing(target) as scratch:
            scratch.mkdir()
            for name in _PARTS:
                shutil.copy(_SOURCES / name, scratch / name)
            _mend(scratch / "pstest")
            call(["go", "build", "-o", "server", "."], cwd=scratch)
    return target / "server"


def _cached() -> Path:
    """Where the server is kept that these sources give."""
    parts = [(_SOURCES / name).read_bytes() for name in _PARTS]
    parts += [_MODULE.encode(), repr(_MENDED).encode()]
    return cache_folder() / f"pubsub-{xxhash.xxh3_64_hexdigest(b''.join(parts))}"


def _mend(folder: Path) -> None:
    """A copy of the module, with a seek that works."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", _MODULE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServiceFailed(f"Go cannot fetch {_MODULE}:\n{done.stdout}{done.stderr}")
    shutil.copytree(json.loads(done.stdout)["Dir"], folder)
    for path in (folder, *folder.rglob("*")):  # Go's cache of modules is read-only
        path.chmod(0o755 if path.is_dir() else 0o644)
    fake = folder / "pstest" / "fake.go"
    text = fake.read_text(encoding="utf-8")
    for old, new in _MENDED:
        if text.count(old) != 1:
            raise ServiceFailed(f"{_MODULE} has changed where its seek is mended: {old!r}")
        text = text.replace(old, new)
    fake.write_text(text, encoding="utf-8")


class PubSubServer(Service):
    """One Pub/Sub server; a context manager that starts and stops it. What it holds ends with it.

    Snapshots and exactly-once acknowledgements are not among what it knows.
    """

    name = "pubsub"
    start_seconds = 30

    def command(self) -> list[str]:
        return [str(install()), self.host]

    def healthy(self) -> bool:
        return listens(self.port)

    @property
    def host(self) -> str:
        """HOST:PORT, for ``PUBSUB_EMULATOR_HOST`` and ``--pubsub-endpoint``."""
        return f"127.0.0.1:{self.port}"


def make_subscription(host: str, topic: str, subscription: str, project: str = PROJECT) -> None:
    """A topic and a subscription of it that keeps what was acknowledged; what is there stays.

    Args:
        host: HOST:PORT of the server.
        topic: its id.
        subscription: its id.
        project: of both.
    """
    from google.api_core.exceptions import AlreadyExists

    from adtally.io.pubsub_client import PubSubConfig, connect, connect_publisher

    path = f"projects/{project}/topics/{topic}"
    config = PubSubConfig(f"projects/{project}/subscriptions/{subscription}", endpoint=host)
    with connect_publisher(host) as publisher, contextlib.suppress(AlreadyExists):
        publisher.create_topic(request={"name": path})
    request = {
        "name": config.subscription,
        "topic": path,
        "retain_acked_messages": True,
        "message_retention_duration": datetime.timedelta(seconds=RETENTION_SECONDS),
    }
    with connect(config) as subscriber, contextlib.suppress(AlreadyExists):
        subscriber.create_subscription(request=request)
