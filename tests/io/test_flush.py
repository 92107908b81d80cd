"""Files of a stream: what their names say, and that nothing written is replaced by another."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.arrow import from_ipc, with_tag
from adtally.io.dead_letters import DeadLetter, LetterBatch
from adtally.io.flush import PIECE_BYTES, PIECES, Collect, Flush, digest, table_pieces
from adtally.io.parquet import date_partition, log_partition
from adtally.io.schema import EVENT_SCHEMA, FLAG_SCHEMA
from adtally.io.sinks import WriteDeadLetters, WriteEventLog, WriteToParquet
from adtally.runners.unbounded import counters
from tests.io.test_views import table

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z
HOUR, DAY = 3_600_000, 86_400_000
JOB = "stream-0123456789ab"
DIGEST = re.compile(r"[0-9a-f]{16}")
PIECES_OF_BYTES = st.lists(st.binary(max_size=20), max_size=8)


# Names.


@given(pieces=PIECES_OF_BYTES, seed=st.integers())
def test_the_same_contents_have_the_same_name_in_any_order(pieces: list[bytes], seed: int) -> None:
    other = list(pieces)
    random.Random(seed).shuffle(other)
    assert digest(pieces) == digest(iter(other))
    assert DIGEST.fullmatch(digest(pieces))


@given(one=PIECES_OF_BYTES, other=PIECES_OF_BYTES)
def test_other_contents_have_another_name(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) == (Counter(one) == Counter(other))


def test_where_pieces_are_cut_and_how_often_they_come_is_part_of_the_name() -> None:
    kinds = [[], [b""], [b"ab"], [b"a", b"b"], [b"ab", b"ab"], [b"", b"ab"], [b"ba"]]
    assert len({digest(pieces) for pieces in kinds}) == len(kinds)


def test_names_do_not_change_with_a_release() -> None:
    """A pane that was written by an earlier version and is restored by a later one."""
    assert digest([b"one", b"two"]) == "924138daf75cb883"
    assert Flush(JOB).name(3, 12, "0123") == f"{JOB}-0003-000012-0123"


@given(
    keys=st.tuples(st.integers(0, 9999), st.integers(0, 9999)),
    panes=st.tuples(st.integers(0, 999_999), st.integers(0, 999_999)),
)
def test_names_sort_by_key_and_then_by_pane(keys: tuple[int, int], panes: tuple[int, int]) -> None:
    flush = Flush(JOB)
    names = [flush.name(key, pane, "0") for key, pane in zip(keys, panes, strict=True)]
    places = list(zip(keys, panes, strict=True))
    assert (names[0] < names[1]) == (places[0] < places[1])
    assert (names[0] == names[1]) == (places[0] == places[1])


def test_a_name_is_a_plain_name_in_every_filesystem() -> None:
    name = Flush(JOB).name(1, 2, digest([b"piece"]))
    assert re.fullmatch(r"[a-z0-9-]+", name)


def test_each_part_of_a_name_keeps_files_apart() -> None:
    names = {
        Flush("stream-a").name(1, 2, "0"),
        Flush("stream-b").name(1, 2, "0"),
        Flush("stream-a").name(2, 2, "0"),
        Flush("stream-a").name(1, 3, "0"),
        Flush("stream-a").name(1, 2, "1"),
    }
    assert len(names) == 5


# Pieces.


def numbered(count: int, width: int = 1000, text: pa.DataType | None = None) -> pa.Table:
    """Rows of about ``width`` bytes that do not compress."""
    letters = random.Random(1)
    texts = [f"{letters.getrandbits(4 * width):0{width}x}" for _ in range(count)]
    columns = {"n": pa.array(range(count), pa.int64()), "text": pa.array(texts, text)}
    return pa.table(columns)


def test_views_are_cut_as_small_as_plain_texts() -> None:
    """Arrow writes the text of all rows with each slice of string views."""
    pieces = table_pieces(numbered(1000, text=pa.string_view()))
    assert len(pieces) > 1
    assert pieces == table_pieces(numbered(1000))


@pytest.mark.parametrize("rows", [1, 2, 255, 270, 1000, 1050])
def test_pieces_are_the_table_in_order_and_bounded(rows: int) -> None:
    given = numbered(rows)
    pieces = table_pieces(given)
    assert pa.concat_tables(from_ipc(piece) for piece in pieces).equals(given)
    assert all(len(piece) < 1.2 * PIECE_BYTES for piece in pieces)
    assert len(pieces) == -(-given.nbytes // PIECE_BYTES)


def test_a_row_is_never_cut() -> None:
    given = numbered(3, width=PIECE_BYTES * 2)
    assert [from_ipc(piece).num_rows for piece in table_pieces(given)] == [1, 1, 1]


def test_nothing_gives_no_piece() -> None:
    assert table_pieces(numbered(5).slice(0, 0)) == []


def test_pieces_keep_the_tags_of_the_table() -> None:
    tagged = with_tag(numbered(400), block="b", sequence="7")
    pieces = table_pieces(tagged)
    assert len(pieces) > 1
    assert {from_ipc(piece).schema for piece in pieces} == {tagged.schema}
    for piece in pieces:
        assert from_ipc(piece).schema.metadata == tagged.schema.metadata


def test_the_same_table_gives_the_same_pieces() -> None:
    assert table_pieces(numbered(400)) == table_pieces(numbered(400))


# Collected.


SECONDS = 300


def run(transform: Any, *batches: list[Any], seconds: float = SECONDS) -> dict[str, int]:
    """Run a transform on batches that come ``seconds`` apart; gives its counters.

    Of the runners in this process, only Beam's old one has a clock for triggers. It fires one pane
    of a key by time, and waits for a second one for ever.
    """
    given = test_stream.TestStream()
    for batch in batches:
        given = given.add_elements(batch).advance_processing_time(seconds)
    options = PipelineOptions(["--streaming"])
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    _ = pipeline | given.advance_watermark_to_infinity() | transform
    result = pipeline.run()
    result.wait_until_finish()
    return counters(result)


def _place(element: tuple[str, bytes]) -> str:
    return element[0]


def _piece(element: tuple[str, bytes]) -> list[bytes]:
    return [element[1]]


def collected(flush: Flush, *batches: list[tuple[str, bytes]]) -> list[tuple[int, list[bytes]]]:
    """Panes that ``Collect`` makes of elements with a place each."""
    _KEPT.clear()
    run(Collect(flush, _place, _piece) | beam.MapTuple(_keep), *batches)
    return list(_KEPT)


_KEPT: list[tuple[int, list[bytes]]] = []


def _keep(key: int, pieces: Any) -> None:
    _KEPT.append((key, sorted(pieces)))


@pytest.mark.parametrize("keys", [1, 2, 7])
def test_what_is_collected_is_everything_once_and_a_place_stays_together(keys: int) -> None:
    values = [(f"shard-{n % 5}", b"%d" % n) for n in range(50)]
    panes = collected(Flush(JOB, SECONDS, keys), values)
    found = Counter(piece for _, pieces in panes for piece in pieces)
    assert found == Counter(piece for _, piece in values)
    key_of = {piece: key for key, pieces in panes for piece in pieces}
    assert set(key_of.values()) <= set(range(keys))
    assert (len(set(key_of.values())) > 1) == (keys > 1)
    for shard in {place for place, _ in values}:
        assert len({key_of[piece] for place, piece in values if place == shard}) == 1


def test_what_has_waited_for_its_time_is_written_without_what_comes_later() -> None:
    batches = [[("a", b"1")], [("a", b"2"), ("a", b"3")]]
    assert collected(Flush(JOB, SECONDS, pieces=2), *batches) == [(0, [b"1"]), (0, [b"2", b"3"])]


def test_what_has_not_waited_for_its_time_is_written_together() -> None:
    batches = [[("a", b"1")], [("a", b"2")], [("a", b"3")]]
    assert collected(Flush(JOB, 3 * SECONDS), *batches) == [(0, [b"1", b"2", b"3"])]


def test_enough_pieces_are_written_before_their_time() -> None:
    batches = [[("a", b"1"), ("a", b"2")], [("a", b"3"), ("a", b"4")]]
    flush = Flush(JOB, 9 * SECONDS, pieces=2)
    assert collected(flush, *batches) == [(0, [b"1", b"2"]), (0, [b"3", b"4"])]


def test_an_element_without_pieces_makes_no_file(tmp_path: Path) -> None:
    run(WriteToParquet(str(tmp_path), JOB, "rows", Flush(JOB)), [flags(START).slice(0, 0)])
    assert files(tmp_path) == {}


# Files.


def flags(*starts: int, advertiser: str = "a") -> pa.Table:
    rows = [{"window_start": at, "advertiser_id": advertiser, "flags": []} for at in starts]
    return pa.Table.from_pylist([{**FLAG_ROW, **row} for row in rows], FLAG_SCHEMA)


FLAG_ROW = {
    "window_end": START + 60_000,
    "window_seconds": 60,
    "ruleset_version": "1",
    "final_after": START,
    "generation": 0,
    "version": 1,
}


def events(*times: int, block: str = "events-shard-0") -> pa.Table:
    rows = [{"occurred_at": at, "event_id": str(at)} for at in times]
    return with_tag(table(EVENT_SCHEMA, rows), block=block, sequence="7")


def letters(*payloads: bytes, block: str = "events-shard-0") -> LetterBatch:
    made = [
        DeadLetter.of(
            failed_at=START,
            stage="decode",
            error_type="invalid_json",
            message="no JSON",
            source="kinesis://events/shard-0/1",
            position=str(number),
            payload=payload,
        )
        for number, payload in enumerate(payloads)
    ]
    return LetterBatch(block, 7, made)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def parts(path: str) -> tuple[str, str]:
    """Partition and digest of a file, whose name has to be JOB-KEY-PANE-DIGEST."""
    match = re.fullmatch(rf"(?:(.*)/)?{JOB}-\d{{4}}-\d{{6}}-([0-9a-f]{{16}})\.[a-z.]+", path)
    assert match is not None, path
    return match[1] or "", match[2]


def test_events_of_a_pane_are_one_file_for_each_hour_with_one_digest(tmp_path: Path) -> None:
    sink = WriteEventLog(str(tmp_path), Flush(JOB))
    counted = run(sink, [events(START, START + HOUR), events(START + 1, START + DAY)])
    found = [parts(path) for path in files(tmp_path)]
    assert sorted(folder for folder, _ in found) == [
        log_partition(START),
        log_partition(START + HOUR),
        log_partition(START + DAY),
    ]
    assert len({digest for _, digest in found}) == 1
    assert (counted["log_files"], counted["log_rows"]) == (3, 4)
    assert counted["log_bytes"] == sum(len(content) for content in files(tmp_path).values())
    with pq.ParquetFile(next((tmp_path / log_partition(START)).iterdir())) as file:
        held = file.read(["event_id"]).to_pydict()["event_id"]
    assert sorted(held) == [str(START), str(START + 1)]


def test_rows_of_a_pane_are_one_file_for_each_day(tmp_path: Path) -> None:
    sink = WriteToParquet(str(tmp_path), JOB, "rows", Flush(JOB))
    tables = [
        with_tag(flags(START, START + DAY), pane_timing="on_time"),
        with_tag(flags(START + HOUR, advertiser="b"), pane_timing="late"),
    ]
    counted = run(sink, tables)
    found = [parts(path) for path in files(tmp_path)]
    assert [folder for folder, _ in found] == [date_partition(START), date_partition(START + DAY)]
    assert len({digest for _, digest in found}) == 1
    assert (counted["rows"], counted["table_files"]) == (3, 2)
    with pq.ParquetFile(next((tmp_path / date_partition(START)).iterdir())) as file:
        assert sorted(file.read().to_pydict()["advertiser_id"]) == ["a", "b"]


def test_letters_of_a_pane_are_written_under_a_name_of_a_flush(tmp_path: Path) -> None:
    sink = WriteDeadLetters(str(tmp_path), Flush(JOB))
    counted = run(sink, [letters(b"one", b"two"), letters(b"three")])
    assert len({parts(path)[1] for path in files(tmp_path)}) == 1
    assert counted["dead_letters_written"] == 3


SINKS: dict[str, tuple[Callable[..., Any], Callable[[int], Any]]] = {
    "events": (WriteEventLog, lambda n: events(START + n)),
    "letters": (WriteDeadLetters, lambda n: letters(b"%d" % n)),
    "rows": (
        lambda folder, flush: WriteToParquet(folder, JOB, "rows", flush),
        lambda n: flags(START + n * 60_000),
    ),
}


@pytest.mark.parametrize("kind", SINKS)
def test_a_pane_that_comes_again_writes_the_same_file_and_another_pane_another(
    tmp_path: Path, kind: str
) -> None:
    make, element = SINKS[kind]
    sink = make(str(tmp_path), Flush(JOB))
    run(sink, [element(1), element(2)])
    once = files(tmp_path)
    assert len(once) == 1
    run(sink, [element(1), element(2)])
    assert files(tmp_path) == once
    # A restore that cuts the pane in another way has the same job, key and number.
    run(sink, [element(1)])
    again = files(tmp_path)
    assert len(again) == 2
    assert again.items() > once.items()
    names = [path.rsplit("-", 1)[0] for path in again]
    assert names[0] == names[1]


def test_writers_of_the_log_keep_to_their_own_files(tmp_path: Path) -> None:
    blocks = [f"events-shard-{n}" for n in range(12)]
    sink = WriteEventLog(str(tmp_path), Flush(JOB, keys=2))
    run(sink, [events(START, block=block) for block in blocks])
    names = [path.rsplit("/", 1)[1] for path in files(tmp_path)]
    assert sorted(name.removeprefix(f"{JOB}-")[:4] for name in names) == ["0000", "0001"]


def test_a_pane_holds_no_more_than_the_memory_it_was_given() -> None:
    assert Flush(JOB).pieces * PIECE_BYTES == PIECES * PIECE_BYTES == 128 << 20
