"""The watcher of a run ends with it, however that ends."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from rich.console import Console

from adtally.pipelines.progress import Watch


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "adtally-progress"]


def test_no_thread_is_left_when_interrupted_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def started_and_interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", started_and_interrupted)
    with pytest.raises(KeyboardInterrupt), Watch(Console()).watching(str(tmp_path), 1, 1):
        pytest.fail("it went on")
    assert not watchers()


def test_it_watches_until_the_end(tmp_path: Path) -> None:
    with Watch(Console()).watching(str(tmp_path), 1, 1):
        assert len(watchers()) == 1
    assert not watchers()
