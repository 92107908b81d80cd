"""Text of others, for people: names of files and values can hold orders to a terminal."""

from __future__ import annotations

import logging
import re
from typing import Final

_ORDERS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what turns the direction of text, half surrogates."""


def shown(text: str) -> str:
    """Text without a sign that a terminal would obey: ``ESC`` is shown as ``\\x1b``."""
    return _ORDERS.sub(lambda match: ascii(match[0])[1:-1], text)


def shown_line(text: str) -> str:
    """As :func:`shown`, on one line."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


class Formatter(logging.Formatter):
    """Log lines that no message can break out of; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return shown(super().formatException(ei))  # type: ignore[arg-type]
