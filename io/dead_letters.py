"""The one envelope for everything that did not fit."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

DEAD_LETTER_VERSION: Final = 1
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
            message=message[:MESSAGE_LIMIT],
            source=source,
            position=position,
            payload=text,
            payload_encoding=encoding,
        )

    def payload_bytes(self) -> bytes:
        """The payload as it came."""
        if self.payload_encoding == "base64":
            return base64.b64decode(self.payload)
        return self.payload.encode("utf-8")
