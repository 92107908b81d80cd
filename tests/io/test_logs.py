"""Listing inputs and packing them into blocks: nothing lost, nothing twice, the same every time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.logs import LogFile, NoInput, list_files, pack

BLOCK = 1_000

log_files = st.lists(
    st.builds(
        LogFile,
        path=st.text("abc/", min_size=1, max_size=6),
        stored_bytes=st.integers(0, 5 * BLOCK),
        format=st.sampled_from(["json", "json", "parquet"]),
        compression=st.sampled_from(["none", "gzip", "zstd", "bzip2"]),
    ),
    unique_by=lambda file: file.path,
    max_size=30,
)


@given(files=log_files)
def test_every_byte_of_every_file_is_in_exactly_one_span(files: list[LogFile]) -> None:
    spans = [span for block in pack(files, BLOCK) for span in block.spans]
    for file in files:
        mine = [span for span in spans if span.file == file]
        if len(mine) == 1 and mine[0].end == -1:
            assert mine[0].start == 0
            continue
        assert (file.format, file.compression) == ("json", "none")
        assert mine[0].start == 0
        assert mine[-1].end == file.stored_bytes
        assert all(a.end == b.start for a, b in itertools.pairwise(mine))
        assert all(span.start < span.end for span in mine)
    assert {span.file for span in spans} == set(files)
    assert sum(span.stored_bytes for span in spans) == sum(file.stored_bytes for file in files)


@given(files=log_files, seed=st.randoms())
def test_blocks_do_not_hang_on_the_order_of_listing(files: list[LogFile], seed: object) -> None:
    shuffled = list(files)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pack(shuffled, BLOCK) == pack(files, BLOCK)


@given(files=log_files)
def test_blocks_are_of_one_format_in_order_and_not_too_large(files: list[LogFile]) -> None:
    blocks = pack(files, BLOCK)
    assert len({block.name for block in blocks}) == len(blocks)
    for block in blocks:
        assert block.spans
        assert {span.file.format for span in block.spans} == {block.format}
        sizes = [
            span.stored_bytes * (span.file.estimated_bytes // max(1, span.file.stored_bytes))
            for span in block.spans
        ]
        assert len(sizes) == 1 or sum(sizes) <= BLOCK
        if block.spans[0].file.compression == "none" and block.format == "json":
            assert max(sizes) <= BLOCK * 3 // 2
    for format in ("json", "parquet"):
        order = [s.file.path for b in blocks if b.format == format for s in b.spans]
        assert order == sorted(order)


def test_files_of_two_formats_in_one_folder_share_blocks_with_their_own() -> None:
    files = [LogFile(f"/{n:03}.jsonl", 10, "json", "none") for n in range(0, 100, 2)]
    files += [LogFile(f"/{n:03}.parquet", 1, "parquet", "none") for n in range(1, 100, 2)]
    assert [block.format for block in pack(files)] == ["json", "parquet"]


def test_names_of_blocks_follow_from_paths_sizes_and_ranges() -> None:
    def name(path: str = "/a.jsonl", size: int = 10) -> str:
        return pack([LogFile(path, size, "json", "none")], BLOCK)[0].name

    assert name() == name()
    assert len({name(), name(path="/b.jsonl"), name(size=11)}) == 3
    parts = pack([LogFile("/a.jsonl", 10 * BLOCK, "json", "none")], BLOCK)
    assert len({block.name for block in parts}) == 10


def test_many_small_files_share_blocks() -> None:
    files = [LogFile(f"/{n:05}.jsonl.gz", 10, "json", "gzip") for n in range(1_000)]
    blocks = pack(files, BLOCK)
    assert len(blocks) == 1_000 // 12 + 1  # 80 bytes each, uncompressed


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}\n")


def listed(folder: Path, *inputs: str) -> tuple[list[str], list[str]]:
    files, passed_over = list_files(inputs)
    assert all(file.stored_bytes == 3 for file in files)
    strip, why = f"{folder}/", " (no log by its name)"
    assert all(one.endswith(why) for one in passed_over)
    return [f.path.removeprefix(strip) for f in files], [
        one.removeprefix(strip).removesuffix(why) for one in passed_over
    ]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_gives_its_logs_at_any_depth(tmp_path: Path, slash: str) -> None:
    logs = ["a.jsonl", "b.JSON.gz", "c.log", "d.ndjson.zst", "x/y/e.txt.bz2", "x/f.parquet"]
    make(tmp_path, *logs, ".hidden.jsonl", "_SUCCESS", "x/_tmp.jsonl", "notes.md", "archive.tar.gz")
    files, passed_over = listed(tmp_path, str(tmp_path) + slash)
    assert files == sorted(logs)
    assert passed_over == sorted(
        [".hidden.jsonl", "_SUCCESS", "x/_tmp.jsonl", "notes.md", "archive.tar.gz"]
    )


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.jsonl", "json", "none"),
        ("a.jsonl.gz", "json", "gzip"),
        ("a.GZ", "json", "gzip"),
        ("a.json.zst", "json", "zstd"),
        ("a.zstd", "json", "zstd"),
        ("a.bz2", "json", "bzip2"),
        ("a.parquet", "parquet", "none"),
        ("access", "json", "none"),
        (".hidden", "json", "none"),
        ("a.2024-01-01", "json", "none"),
    ],
)
def test_a_named_file_may_have_any_ending(
    tmp_path: Path, name: str, format: str, compression: str
) -> None:
    make(tmp_path, name, "other.jsonl")
    files, passed_over = list_files([str(tmp_path / name)])
    assert files == [LogFile(str(tmp_path / name), 3, format, compression)]
    assert passed_over == []


def test_patterns_name_files(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl", "b.weird", "sub/c.jsonl", "sub/deep/d.jsonl", "b.dir/e.jsonl")
    assert listed(tmp_path, f"{tmp_path}/*.jsonl")[0] == ["a.jsonl"]
    assert listed(tmp_path, f"{tmp_path}/b.*")[0] == ["b.weird"]
    assert listed(tmp_path, f"{tmp_path}/**.jsonl")[0] == [
        "a.jsonl",
        "b.dir/e.jsonl",
        "sub/c.jsonl",
        "sub/deep/d.jsonl",
    ]
    assert listed(tmp_path, f"{tmp_path}/[ab].*")[0] == ["a.jsonl", "b.weird"]


def test_a_name_that_another_begins_with_gives_only_itself(tmp_path: Path) -> None:
    make(tmp_path, "day/a.jsonl", "day2/b.jsonl", "day.jsonl")
    assert listed(tmp_path, f"{tmp_path}/day")[0] == ["day/a.jsonl"]
    assert listed(tmp_path, f"{tmp_path}/day.jsonl")[0] == ["day.jsonl"]


def test_a_file_matched_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "logs/a.jsonl", "logs/b.jsonl")
    monkeypatch.chdir(tmp_path)
    files, _ = listed(tmp_path, "logs", f"{tmp_path}/logs/a.jsonl", "logs/*.jsonl", "./logs/")
    assert files == ["logs/a.jsonl", "logs/b.jsonl"]


def test_a_file_named_beside_its_directory_is_read_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    (tmp_path / "b.dat").write_bytes(b"{}\n")
    files, passed_over = list_files([str(tmp_path), str(tmp_path / "b.dat"), str(tmp_path)])
    assert [Path(file.path).name for file in files] == ["a.jsonl", "b.dat"]
    assert passed_over == []


def test_a_path_is_the_same_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "logs/a.jsonl")
    monkeypatch.chdir(tmp_path / "logs")
    assert listed(tmp_path, "../logs/a.jsonl", str(tmp_path / "logs"))[0] == ["logs/a.jsonl"]


@pytest.mark.parametrize(
    "pattern", ["none", "none/", "*.nothing", "empty", "only/", "none/a.jsonl"]
)
def test_no_match_is_an_error_that_names_the_input(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path, "a.jsonl", "only/readme.md")
    with pytest.raises(NoInput, match="matches no log file") as raised:
        list_files([str(tmp_path / "a.jsonl"), f"{tmp_path}/{pattern}"])
    assert pattern in str(raised.value)
