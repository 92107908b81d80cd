"""Where alerts go: one small interface, and what implements it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import apache_beam as beam
import botocore.exceptions
import xxhash
from apache_beam.io.filesystem import BeamIOError
from apache_beam.metrics import Metrics

from adtally.io.endpoints import AWS_AUTHORITY, refusal
from adtally.io.files import atomic_write, join, make_folder
from adtally.io.kinesis_client import KinesisConfig, connect
from adtally.io.kinesis_producer import put_entries
from adtally.io.objects import Storing
from adtally.io.sources import NAMESPACE

Line = tuple[str, bytes]
"""The advertiser that a record is about, and the record as JSON."""

LONGEST_KEY: Final = 256
"""Characters of a partition key of Kinesis."""


class AlertSinkError(ValueError):
    """Alerts cannot be sent there; the message says why and what to write instead."""


class AlertWriter(Protocol):
    """An open sink, of one worker."""

    def write(self, lines: Sequence[Line]) -> None:
        """Send records; when it returns they have arrived, once or more.

        Raises:
            Exception: some may not have arrived; the pane is run again, and gives the same ones.
        """

    def close(self) -> None:
        """Let go of connections."""


class AlertSink(Protocol):
    """Where alerts go: a value that travels to the workers, so it holds no secret."""

    def check(self) -> None:
        """Make sure, before anything is read, that alerts will be taken.

        Raises:
            AlertSinkError: they will not.
        """

    def open(self) -> AlertWriter:
        """Connect, on a worker."""


@dataclass
class SendAlerts(beam.PTransform):
    """Send batches of records, each as soon as it comes.

    Guarantee: at least once. No bundle ends before its records have arrived; one that is run again
    sends the same bytes, with the same ids.
    """

    sink: AlertSink

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, batches: Any) -> Any:
        return batches | "Send" >> beam.ParDo(_Send(self.sink)).with_output_types(int)


class _Send(Storing):
    def __init__(self, sink: AlertSink) -> None:
        self._sink = sink
        self._writer: AlertWriter | None = None

    def setup(self) -> None:
        self._writer = self._sink.open()
        self._milliseconds = Metrics.distribution(NAMESPACE, "alert_milliseconds")

    def process(self, lines: list[Line]) -> None:
        if self._writer is None:
            raise RuntimeError("an alert came before the sink was open; the runner has a fault.")
        begun = time.monotonic()
        self._writer.write(lines)  # at once, and not with its bundle: seconds count
        self._milliseconds.update(round((time.monotonic() - begun) * 1000))

    def teardown(self) -> None:
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class KinesisAlerts:
    """A Kinesis stream; records of an advertiser lie in one shard.

    Throttling, partial failures and an absence of up to 300 s are waited for; after that the
    bundle fails, and is run again by runners that do so.
    """

    config: KinesisConfig

    def check(self) -> None:
        """See :class:`AlertSink`; needs kinesis:DescribeStreamSummary."""
        where = self.config.endpoint_url or self.config.region or "AWS"
        try:
            connect(self.config).describe_stream_summary(**self.config.target)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise AlertSinkError(
                f"alerts cannot go to the stream {self.config.stream} at {where}: "
                f"{refusal(error, AWS_AUTHORITY) or error}. Create it, or correct --alerts, the "
                f"region or the credentials."
            ) from error

    def open(self) -> AlertWriter:
        return _KinesisWriter(self.config)


class _KinesisWriter:
    def __init__(self, config: KinesisConfig) -> None:
        self._config = config
        self._client = connect(config)

    def write(self, lines: Sequence[Line]) -> None:
        put_entries(self._client, self._config, ((partition_key(who), data) for who, data in lines))

    def close(self) -> None:
        self._client.close()


def partition_key(advertiser_id: str) -> str:
    """The advertiser, as far as Kinesis takes it as a key."""
    if 0 < len(advertiser_id) <= LONGEST_KEY:
        return advertiser_id
    return xxhash.xxh3_128_hexdigest(advertiser_id.encode())


@dataclass(frozen=True)
class FolderAlerts:
    """A folder or URI: a small file of JSON lines for each pane with news, by any worker.

    Files appear whole. Their names follow from their contents, so a pane that is run again writes
    the same file again, and each record is there once.
    """

    folder: str

    def check(self) -> None:
        """See :class:`AlertSink`."""
        try:
            make_folder(self.folder)
        except (OSError, BeamIOError, ValueError) as error:
            raise AlertSinkError(
                f"alerts cannot be written below {self.folder}: {error}. Correct --alerts."
            ) from error

    def open(self) -> AlertWriter:
        return _FolderWriter(self.folder)


class _FolderWriter:
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def write(self, lines: Sequence[Line]) -> None:
        text = _text(lines)
        name = f"alerts-{xxhash.xxh3_128_hexdigest(text)}.jsonl"
        with atomic_write(join(self._folder, name)) as file:
            file.write(text)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class FileAlerts:
    """One local file of JSON lines, to ``tail -f``: every record once or more.

    It is locked while lines are appended, so any number of workers of this machine may share it,
    and it may be moved away at any time (logrotate). The rest of a line that a kill cut short
    stands by itself: a line that is no JSON comes again, whole.
    """

    path: str

    def check(self) -> None:
        """See :class:`AlertSink`."""
        try:
            self.open().write([])
        except OSError as error:
            raise AlertSinkError(
                f"alerts cannot be appended to {self.path}: {error}. Correct --alerts."
            ) from error

    def open(self) -> AlertWriter:
        return _FileWriter(Path(self.path))


class _FileWriter:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, lines: Sequence[Line]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            size = file.seek(0, os.SEEK_END)
            cut = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" * cut + _text(lines))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file that has the name while we hold its lock: it may be replaced meanwhile."""
        while True:
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                named = False
                with contextlib.suppress(FileNotFoundError):
                    named = os.path.samestat(os.fstat(file.fileno()), self._path.stat())
                if named:
                    yield file
                    return

    def close(self) -> None:
        """Nothing is open."""


def _text(lines: Sequence[Line]) -> bytes:
    return b"".join(data + b"\n" for _, data in lines)
