"""Progress: the sum over all writers, at any moment."""

from __future__ import annotations

import threading
from pathlib import Path

from adtally.io.progress import Progress, ProgressWriter, read_progress

ONE = Progress(files=1, stored_bytes=10, records=5, events=4, dead_letters=1)


def test_all_writers_are_summed(tmp_path: Path) -> None:
    for _ in range(20):  # writers that come and go, often at the same place in memory
        writer = ProgressWriter(str(tmp_path))
        writer.add(ONE)
        writer.add(Progress(events=1))
        del writer
    assert read_progress(str(tmp_path)) == Progress(20, 200, 100, 100, 20)


def test_without_a_folder_nothing_is_written() -> None:
    ProgressWriter("").add(ONE)


def test_no_progress_yet(tmp_path: Path) -> None:
    assert read_progress(str(tmp_path)) == Progress()


def test_a_reader_never_sees_half_a_state(tmp_path: Path) -> None:
    done = threading.Event()

    def work() -> None:
        writer = ProgressWriter(str(tmp_path))
        for _ in range(300):
            writer.add(ONE)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    last = 0
    while not done.is_set():
        seen = read_progress(str(tmp_path))
        assert (seen.stored_bytes, seen.records) == (seen.files * 10, seen.files * 5)
        assert seen.files >= last
        last = seen.files
    thread.join()
    assert read_progress(str(tmp_path)).files == 300
