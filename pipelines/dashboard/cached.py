"""Values that are costly to find out."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar

FRESH_SECONDS: Final = 10.0
"""How long what is costly to find out is shown again: listings of many files."""

Value = TypeVar("Value")


class Cached(Generic[Value]):
    """A value that is found out again when it is asked for and old; of one caller at a time."""

    def __init__(self, find_out: Callable[[], Value], seconds: float = FRESH_SECONDS) -> None:
        self._find_out = find_out
        self._seconds = seconds
        self._lock = Lock()
        self._known: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > self._seconds:
                value = self._find_out()
                self._known = (time.monotonic(), value)
            return self._known[1]
