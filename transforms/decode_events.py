"""``DecodeEvents``: chunks of records to batches of events and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from adtally.io.dead_letters import DeadLetter, LetterBatch
from adtally.io.limits import READ_STAGE, Limits
from adtally.io.progress import Progress, ProgressWriter
from adtally.io.read_logs import LogChunk
from adtally.io.sources import NAMESPACE
from adtally.transforms.decode import decode
from adtally.transforms.decode_checks import Plausible
from adtally.transforms.mapping import Mapping
from adtally.transforms.pii import Pii
from adtally.transforms.rules.ruleset import Ruleset

EVENTS: Final = "events"
DEAD_LETTERS: Final = "dead_letters"


@dataclass
class DecodeEvents(beam.PTransform):
    """Decode chunks of JSON lines; outputs ``events`` (tables) and ``dead_letters`` (batches).

    Counts: ``records_read`` = ``records_decoded`` + ``records_dead``.

    Attributes:
        mapping: how records become events.
        now_ms: when the run began, stamped on dead letters; None in streams, which have no such
            moment, for the time of decoding.
        plausible: limits of event times.
        progress_folder: see :class:`adtally.io.progress.ProgressWriter`.
        ruleset: judges each event by itself.
        pii: what becomes of addresses and users.
        limits: of records.
    """

    mapping: Mapping
    now_ms: int | None
    plausible: Plausible = Plausible()
    progress_folder: str = ""
    ruleset: Ruleset = Ruleset()
    pii: Pii = Pii()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, chunks: Any) -> Any:
        return chunks | "Decode" >> beam.ParDo(_Decode(self)).with_outputs(
            DEAD_LETTERS, main=EVENTS
        ).with_output_types(pa.Table)


class _Decode(beam.DoFn):
    def __init__(self, given: DecodeEvents) -> None:
        self._mapping = given.mapping
        self._now_ms = given.now_ms
        self._plausible = given.plausible
        self._progress_folder = given.progress_folder
        self._ruleset = given.ruleset
        self._pii = given.pii
        self._limits = given.limits

    def setup(self) -> None:
        self._progress = ProgressWriter(self._progress_folder)
        names = (
            "records_read",
            "records_decoded",
            "records_dead",
            "records_over_limit",
            "records_without_letter",
            "files_unreadable",
            "events",
        )
        self._count = {name: Metrics.counter(NAMESPACE, name) for name in names}

    def process(self, chunk: LogChunk) -> Iterator[Any]:
        now_ms = round(time.time() * 1000) if self._now_ms is None else self._now_ms
        decoded = decode(
            chunk,
            self._mapping,
            now_ms=now_ms,
            plausible=self._plausible,
            ruleset=self._ruleset,
            pii=self._pii,
            limits=self._limits,
        )
        dead = decoded.dead
        self._count["records_read"].inc(decoded.records)
        self._count["records_decoded"].inc(decoded.records - dead)
        self._count["records_dead"].inc(dead)
        self._count["records_over_limit"].inc(decoded.over_limit)
        self._count["records_without_letter"].inc(decoded.without_letter)
        self._count["files_unreadable"].inc(len(chunk.unreadable))
        self._count["events"].inc(decoded.events.num_rows)
        yield decoded.events
        letters = decoded.dead_letters + unreadable_letters(chunk, now_ms)
        if letters:
            yield TaggedOutput(DEAD_LETTERS, LetterBatch(chunk.block, chunk.sequence, letters))
        self._progress.add(
            Progress(records=decoded.records, events=decoded.events.num_rows, dead_letters=dead)
        )


def unreadable_letters(chunk: LogChunk, now_ms: int) -> list[DeadLetter]:
    """One dead letter for each file that could not be read, or not to its end."""
    return [
        DeadLetter.of(
            failed_at=now_ms,
            stage=READ_STAGE,
            error_type=file.error_type,
            message=f"{file.message}; lines before this place were read. Restore the file and "
            f"run the backfill again.",
            source=file.source,
            position=str(file.position),
            payload=b"",
        )
        for file in chunk.unreadable
    ]
