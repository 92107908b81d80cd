"""Ctrl-C and SIGTERM while Beam runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM out of the block as ``KeyboardInterrupt``, whatever became of them.

    Beam's worker runs bundles in the main thread, catches everything, and reports it as a failed
    bundle: ``RuntimeError`` with the traceback as its text. Outside of the main thread, which gets
    no signals, nothing is changed.

    Raises:
        KeyboardInterrupt: the block was interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def note(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        handler = before[signal.Signals(number)]
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
