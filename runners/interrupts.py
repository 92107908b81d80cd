"""Ctrl-C while Beam runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a Ctrl-C out of the block as ``KeyboardInterrupt``, whatever became of it inside.

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
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
