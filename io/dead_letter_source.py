"""Dead letters as a source: their payloads are decoded again, with the identity they had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from adtally.io.dead_letters import DeadLetter, LetterBatch, decode_lines
from adtally.io.files import read_bytes
from adtally.io.logs import Block
from adtally.io.objects import Storing
from adtally.io.progress import Progress, ProgressWriter
from adtally.io.read_logs import CHUNK_BYTES, LogChunk, Segment
from adtally.io.sources import NAMESPACE

CHUNKS: Final = "chunks"
KEPT: Final = "kept"
REPLAYABLE_STAGE: Final = "decode"
"""Letters of other stages (files that could not be read, documents that an index refused) have no
record to decode, and those without an offset no identity; they stay dead letters."""


@dataclass
class ReadDeadLetters(beam.PTransform):
    """Read dead-letter files; outputs ``chunks`` of payloads and ``kept`` batches of the rest."""

    blocks: tuple[Block, ...]
    progress_folder: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Any:
        return (
            pbegin
            | "List dead letters" >> beam.Create(self.blocks, reshuffle=len(self.blocks) > 1)
            | "Read payloads"
            >> beam.ParDo(_ReadPayloads(self.progress_folder))
            .with_outputs(KEPT, main=CHUNKS)
            .with_output_types(LogChunk)
        )


class _ReadPayloads(Storing):
    def __init__(self, progress_folder: str) -> None:
        self._progress_folder = progress_folder

    def setup(self) -> None:
        self._progress = ProgressWriter(self._progress_folder)
        self._files = Metrics.counter(NAMESPACE, "files_read")
        self._kept = Metrics.counter(NAMESPACE, "dead_letters_kept")

    def process(self, block: Block) -> Iterator[Any]:
        kept = []
        for sequence, letters in enumerate(_batches(block)):
            chunk, others = payload_chunk(block, letters, sequence)
            kept += others
            yield chunk
        if kept:
            yield TaggedOutput(KEPT, LetterBatch(f"{block.name}-kept", 0, kept))
        self._files.inc(len(block.spans))
        self._kept.inc(len(kept))
        self._progress.add(Progress(files=len(block.spans), stored_bytes=block.stored_bytes))


def _batches(block: Block) -> Iterator[list[DeadLetter]]:
    """Letters of a block, of about ``CHUNK_BYTES`` of payloads at a time; at least one batch."""
    letters: list[DeadLetter] = []
    size = 0
    for span in block.spans:
        try:
            for letter in decode_lines(read_bytes(span.file.path)):
                letters.append(letter)
                size += len(letter.payload)
                if size >= CHUNK_BYTES:
                    yield letters
                    letters, size = [], 0
        except ValueError as error:
            raise ValueError(f"{span.file.path}: {error}") from error
    yield letters


def payload_chunk(
    block: Block, letters: list[DeadLetter], sequence: int = 0
) -> tuple[LogChunk, list[DeadLetter]]:
    """The records of replayable letters as one chunk, each line at its own address."""
    chunk = LogChunk(block.name, sequence)
    kept, lines, size = [], [], 0
    for letter in letters:
        if letter.stage != REPLAYABLE_STAGE or not letter.position.isdecimal():
            kept.append(letter)
            continue
        # Someone may have corrected a payload, and laid it out on several lines.
        line = letter.payload_bytes().replace(b"\n", b" ") + b"\n"
        chunk.segments.append(Segment(size, letter.source, int(letter.position)))
        lines.append(line)
        size += len(line)
    chunk.data = b"".join(lines)
    return chunk, kept
