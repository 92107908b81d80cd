"""What comes from elsewhere is never unpickled, and never run."""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import gzip
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from elastic_transport import TransportError

from adtally.io import elasticsearch as es
from adtally.io.arrow import from_ipc
from adtally.io.kpl import deaggregate
from adtally.pipelines.cli import cli
from adtally.transforms.mapping import MappingError, load_mapping
from adtally.transforms.rules.config import read_rules
from tests.fault_proxy import FaultProxy, Refused, Request

ROOT = Path(__file__).parents[1]
PACKAGES = ("io", "pipelines", "runners", "transforms")
UNPICKLING = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"),
    *("jsonpickle", "apache_beam.internal.pickler", "apache_beam.internal.cloudpickle_pickler"),
}
RUNNING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.load"}


def sources() -> list[Path]:
    found = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert len(found) > 100
    return found


def test_no_module_unpickles_or_runs_text() -> None:
    """Beam pickles functions, and elements between our own steps: its business, and on storage
    that has to be trusted (docs/security.md)."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            found += [f"{where} {name}" for name in dangers(node)]
    assert found == []


def dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if one.name in UNPICKLING)
    elif isinstance(node, ast.ImportFrom):
        names = {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        yield from (name for name in names if name in UNPICKLING)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in RUNNING or name.endswith((".deserialize", ".read_pickle", ".from_pickle")):
            yield name
        yield from (
            f"{name}({word.arg}=True)"
            for word in node.keywords
            if word.arg in ("shell", "allow_pickle") and ast.unparse(word.value) != "False"
        )


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import loads",
        "from apache_beam.internal import pickler",
        "eval('1')",
        "pl.DataFrame.deserialize(x)",
        "np.load(x, allow_pickle=True)",
        "run(x, shell=True)",
    ],
)
def test_the_search_finds_them(text: str) -> None:
    assert [name for node in ast.walk(ast.parse(text)) for name in dangers(node)]


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)

    def payloads(self) -> list[bytes]:
        """Pickles of every protocol, as they are, as texts hold them, and compressed."""
        raw = [pickle.dumps(self, number) for number in range(pickle.HIGHEST_PROTOCOL + 1)]
        return [*raw, *(base64.b64encode(one) for one in raw), *(gzip.compress(one) for one in raw)]

    @property
    def sprung(self) -> bool:
        return self.folder.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    made = Trap(tmp_path / "sprung")
    yield made
    assert not made.sprung
    for payload in made.payloads()[:6]:  # and it would have been seen
        pickle.loads(payload)
        assert made.sprung
        made.folder.rmdir()


def records(trap: Trap) -> list[bytes]:
    """Lines that are pickles, or hold some in every field."""
    lines = []
    for payload in trap.payloads():
        text = payload.decode("latin-1")
        event = {
            "event_id": text,
            "event_type": "click",
            "occurred_at": "2026-03-01T10:00:00Z",
            "advertiser_id": text[:200],
            "user_id": text,
            "more": {"py/reduce": text, "!!python/object": text},
        }
        lines += [json.dumps(event).encode(), payload.replace(b"\n", b" ")]
    return lines


def run(*arguments: str, status: tuple[int, ...] = (0,)) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code in status, result.output
    return result.output


def test_logs_and_what_comes_of_them(tmp_path: Path, trap: Trap) -> None:
    logs, out = tmp_path / "logs", str(tmp_path / "out")
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"\n".join(records(trap)))
    (logs / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(records(trap))))
    (logs / "c.jsonl.gz").write_bytes(trap.payloads()[0])
    run("backfill", "--input", str(logs), "--output", out, "--quiet")
    run("backfill", "--input", f"{out}/events", "--output", out, "--quiet")
    run("replay", "--output", out, "--quiet")
    letters = pl.concat([pl.read_ndjson(p) for p in Path(out, "dead-letters").rglob("*.gz")])
    assert letters.height > len(trap.payloads())


def hostile_table(trap: Trap, like: pa.Schema | None = None) -> pa.Table:
    """Extension types were pickles once (CVE-2023-47248); pandas' own remarks are JSON."""
    payload = pickle.dumps(trap)
    marks = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": payload,
    }
    field = pa.field("x", pa.binary(), metadata=marks)
    schema = pa.schema([*(like or ()), field], metadata={"pandas": payload, "adtally.x": payload})
    return pa.table([pa.nulls(0, one.type) for one in schema], schema)


def test_arrow_and_parquet(tmp_path: Path, trap: Trap) -> None:
    table = hostile_table(trap)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert from_ipc(sink.getvalue().to_pybytes()).num_rows == 0
    for payload in trap.payloads():
        with pytest.raises(pa.ArrowInvalid):
            from_ipc(payload)


def test_files_in_an_output(tmp_path: Path, trap: Trap) -> None:
    """Who may write there changes numbers; he does not run anything."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"\n".join(records(trap)))
    run("backfill", "--input", str(logs), "--output", str(out), "--quiet")
    (log, *_) = (out / "events").rglob("*.parquet")
    pq.write_table(hostile_table(trap, pq.read_schema(log)), log.with_name("planted.parquet"))
    again = ("backfill", "--input", str(out / "events"), "--output", str(out), "--quiet")
    run(*again, status=(0, 1, 2))
    log.with_name("planted.parquet").unlink()
    run(*again)
    (marker, *_) = (out / "generations").glob("*.parquet")
    for place in (marker, out / "adtally.json", *(out / "runs").iterdir()):
        place.write_bytes(pickle.dumps(trap))
    run(*again, status=(1, 2))
    run("replay", "--output", str(out), "--quiet", status=(1, 2))


def test_settings(tmp_path: Path, trap: Trap) -> None:
    file = tmp_path / "file.toml"
    for payload in trap.payloads():
        file.write_bytes(payload)
        with pytest.raises(MappingError):
            load_mapping(str(file))
        with pytest.raises(ValueError, match=r"cannot be read|is no"):
            read_rules(str(file))


def test_records_of_streams(trap: Trap) -> None:
    for payload in trap.payloads():
        for data in (payload, b"\xf3\x89\x9a\xc2" + payload):
            assert deaggregate(data, 0, 1 << 127) is None


def test_replies_of_elasticsearch(trap: Trap) -> None:
    for payload in trap.payloads():
        judge = functools.partial(answer, Refused(200, payload))
        with FaultProxy("http://127.0.0.1:9", judge) as proxy:
            config = es.ElasticsearchConfig((proxy.url,), retry_seconds=0)
            client = es.connect(config)
            with contextlib.closing(client), pytest.raises((RuntimeError, TransportError)):
                es.check_templates(client, config)


def answer(refused: Refused, request: Request) -> Refused:
    return refused
