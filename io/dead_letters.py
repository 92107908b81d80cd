"""The one envelope for everything that did not fit."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from adtally.io.files import atomic_write, delete, join, list_paths

DEAD_LETTER_VERSION: Final = 1
_ENCODER: Final = msgspec.json.Encoder()
MESSAGE_LIMIT: Final = 2_000
"""Characters of an error message kept; servers have been seen to echo whole documents."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that could not be processed: what, where, why, and the payload to try it again.

    Attributes:
        failed_at: milliseconds since the epoch, UTC, when the failure was noticed.
        stage: the step that failed: ``read``, ``decode``, ``elasticsearch``.
        error_type: a stable, short name to group by, such as ``invalid_json``.
        message: for people: the value, the consequence, the remedy.
        source: address of the file, stream or index.
        position: where in the source: byte offset of a line, id of a document; may be empty.
        payload: the record as it came, readable when it is text.
        payload_encoding: ``utf-8`` for text as it is, ``base64`` for anything else.
        version: of this envelope.
    """

    failed_at: int
    stage: str
    error_type: str
    message: str
    source: str
    position: str
    payload: str
    payload_encoding: str = "utf-8"
    version: int = DEAD_LETTER_VERSION

    @classmethod
    def of(
        cls,
        *,
        failed_at: int,
        stage: str,
        error_type: str,
        message: str,
        source: str,
        position: str,
        payload: bytes,
    ) -> DeadLetter:
        """Wrap raw bytes, as text when they are valid UTF-8 and as base64 when they are not."""
        try:
            text, encoding = payload.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(payload).decode("ascii"), "base64"
        return cls(
            failed_at=failed_at,
            stage=stage,
            error_type=error_type,
            message=writable(message[:MESSAGE_LIMIT]),
            source=writable(source),
            position=writable(position),
            payload=text,
            payload_encoding=encoding,
        )

    def payload_bytes(self) -> bytes:
        """The payload as it came."""
        if self.payload_encoding == "base64":
            return base64.b64decode(self.payload)
        return self.payload.encode("utf-8")


def writable(text: str) -> str:
    """Text that can be written: a file name need not be valid UTF-8 (``\\udce9`` for ``E9``)."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class LetterBatch:
    """Dead letters of one block of input, from its chunk ``sequence`` on."""

    block: str
    sequence: int
    letters: list[DeadLetter]


def encode_lines(letters: Iterable[DeadLetter]) -> bytes:
    """Dead letters as gzip JSON lines, the same bytes for the same letters."""
    return gzip.compress(b"".join(encode_line(one) + b"\n" for one in letters), mtime=0)


def encode_line(letter: DeadLetter) -> bytes:
    """A dead letter as JSON, without a line end."""
    return _ENCODER.encode(_readable(letter))


def decode_lines(data: bytes) -> Iterator[DeadLetter]:
    """Read back what :func:`encode_lines` wrote.

    Raises:
        ValueError: a line is not a dead letter that this version understands.
    """
    try:
        lines = gzip.decompress(data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole file of dead letters: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield decode_line(line)
        except ValueError as error:
            raise ValueError(f"line {number} {error}") from error


def decode_line(line: bytes) -> DeadLetter:
    """Read back what :func:`encode_line` wrote.

    Raises:
        ValueError: it is not a dead letter that this version understands.
    """
    try:
        fields = msgspec.json.decode(line, type=_Line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"is not a dead letter: {error}") from error
    if fields.version > DEAD_LETTER_VERSION:
        raise ValueError(
            f"has version {fields.version}, newer than {DEAD_LETTER_VERSION}; upgrade adtally to "
            f"replay it."
        )
    return DeadLetter(**{**msgspec.structs.asdict(fields), "failed_at": _ms(fields.failed_at)})


class _Line(msgspec.Struct):
    failed_at: datetime.datetime
    stage: str
    error_type: str
    message: str
    source: str
    position: str
    payload: str
    payload_encoding: str
    version: int


def _readable(letter: DeadLetter) -> dict[str, Any]:
    at = datetime.datetime.fromtimestamp(letter.failed_at / 1000, datetime.UTC)
    return {**dataclasses.asdict(letter), "failed_at": at}


def _ms(at: datetime.datetime) -> int:
    return round(at.timestamp() * 1000)


def dead_letter_path(folder: str, failed_at: int, name: str) -> str:
    """Address of a file of dead letters: ``date=YYYY-MM-DD/NAME.jsonl.gz`` below ``folder``."""
    at = datetime.datetime.fromtimestamp(failed_at / 1000, datetime.UTC)
    return join(folder, f"date={at:%Y-%m-%d}", f"{name}.jsonl.gz")


def write_dead_letters(letters: list[DeadLetter], folder: str, name: str) -> str:
    """Write letters as one file, atomically; returns its address."""
    path = dead_letter_path(folder, letters[0].failed_at, name)
    with atomic_write(path) as file:
        file.write(encode_lines(letters))
    return path


def remove_dead_letters(folder: str, names: Iterable[str]) -> int:
    """Remove the files of some blocks, whatever their date; returns how many.

    The same inputs decoded again give one set of dead letters, not two.
    """
    wanted = set(names)
    paths = [
        path
        for path in list_paths(join(folder, "date=*", "*.jsonl.gz"))
        if path.rsplit("/", 1)[-1].rsplit("-", 1)[0] in wanted
    ]
    delete(paths)
    return len(paths)
