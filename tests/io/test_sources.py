"""Sources of the graph: every line and row once, with the tags and the counts that go with it.

What a file of the event log may look like is in ``test_event_files.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from adtally.io.arrow import tag
from adtally.io.logs import list_files, pack
from adtally.io.progress import Progress, read_progress
from adtally.io.sources import NAMESPACE, ReadEventLog, ReadLogs

OLD = Path(__file__).parents[1] / "data" / "event_log_1-0-0.parquet"


def holds(expected: list[Any]) -> Callable[[list[Any]], None]:
    def check(found: list[Any]) -> None:
        assert sorted(found) == sorted(expected), found

    return check


def counters(result: Any) -> dict[str, int]:
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))
    return {item.key.metric.name: item.result for item in found["counters"]}


def test_logs_are_read_with_counts_and_progress(tmp_path: Path) -> None:
    logs, progress = tmp_path / "logs", tmp_path / "progress"
    logs.mkdir()
    progress.mkdir()
    for n in range(7):
        (logs / f"{n}.jsonl").write_bytes(b'{"n":%d}\n' % n * 3)
    (logs / "big.jsonl").write_bytes(b'{"n":"long"}\n' * 100)
    files, _ = list_files([str(logs)])
    blocks = tuple(pack(files, 200))
    assert len(blocks) > 3
    pipeline = beam.Pipeline(FnApiRunner())
    chunks = pipeline | ReadLogs(blocks, str(progress))
    lines = chunks | beam.FlatMap(lambda chunk: chunk.data.splitlines())
    expected = [b'{"n":%d}' % n for n in range(7)] * 3 + [b'{"n":"long"}'] * 100
    assert_that(lines, holds(expected))
    result = pipeline.run()
    result.wait_until_finish()
    size = 7 * 24 + 1300
    assert counters(result) == {"files_read": 8, "bytes_read": size}
    assert read_progress(str(progress)) == Progress(files=8, stored_bytes=size)


def test_a_log_that_cannot_be_read_goes_with_its_chunk(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(b"{}\n")
    files, _ = list_files([str(tmp_path)])
    (tmp_path / "a.jsonl").unlink()
    with beam.Pipeline(FnApiRunner()) as pipeline:
        chunks = pipeline | ReadLogs(tuple(pack(files)))
        seen = chunks | beam.Map(
            lambda chunk: (chunk.data, [entry.source for entry in chunk.unreadable])
        )
        assert_that(seen, holds([(b"{}\n", [str(tmp_path / "a.jsonl")])]))


def test_the_event_log_is_read_in_numbered_batches(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / f"{name}.parquet").write_bytes(OLD.read_bytes())
    files, _ = list_files([str(tmp_path)])
    (block,) = pack(files)
    pipeline = beam.Pipeline(FnApiRunner())
    tables = pipeline | ReadEventLog((block,))
    seen = tables | beam.Map(
        lambda table: (tag(table, "sequence"), tag(table, "block"), table.num_rows)
    )
    sizes = enumerate([2, 1, 2, 1])
    assert_that(seen, holds([(str(number), block.name, rows) for number, rows in sizes]))
    result = pipeline.run()
    result.wait_until_finish()
    assert counters(result) == {"files_read": 2, "records_read": 6, "events": 6}
