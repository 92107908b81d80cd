"""Secrets that are planted everywhere a user has them, and looked for in all that is told."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import json
import logging
import re
import secrets
import subprocess
import sys
import traceback
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from click.testing import CliRunner

from adtally.io import elasticsearch as es
from adtally.io.endpoints import warn_once
from adtally.io.secrets import SecretError, read_secret
from adtally.pipelines.cli import cli
from adtally.pipelines.graph import build
from adtally.pipelines.run_cli import elasticsearch_of
from adtally.pipelines.stream import planned
from adtally.pipelines.stream_cli import stream, stream_request
from adtally.transforms import pii
from tests.fault_proxy import FaultProxy, Refused, Request
from tests.stores import S3Store

MAIN = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
logging.getLogger().setLevel(logging.DEBUG)
from adtally.pipelines.cli import main
main(sys.argv[1:])
"""
"""A run that logs all that any library has to say."""


class Planted:
    """Secrets of a user, with all that is derived from them and would do as well."""

    def __init__(self, folder: Path) -> None:
        self.values = {
            name: f"{name}{secrets.token_hex(12)}"
            for name in ("apikey", "password", "awssecret", "awstoken", "pseudonym", "filekey")
        }
        self.key_file = folder / "pseudonyms.key"
        self.api_key_file = folder / "api.key"
        for path, name in ((self.key_file, "pseudonym"), (self.api_key_file, "filekey")):
            path.write_text(self.values[name] + "\n")
            path.chmod(0o600)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "AKIANOSECRET",
            "AWS_SECRET_ACCESS_KEY": self.values["awssecret"],
            "AWS_SESSION_TOKEN": self.values["awstoken"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def found_in(self, *texts: bytes) -> set[str]:
        """Names of secrets that are in texts: as they are, quoted, or as base64 or hex."""
        whole = b"\0".join(texts)
        return {
            name
            for name, value in self.values.items()
            if any(form in whole for form in forms(value.encode()))
        }


def forms(value: bytes) -> Iterator[bytes]:
    yield value
    yield urllib.parse.quote(value).encode()
    yield value.hex().encode()
    for offset in range(3):  # base64 of something that has it anywhere
        text = base64.b64encode(bytes(offset) + value)
        yield text[4 if offset else 0 : len(text) // 4 * 4 - 4]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    pii._key.cache_clear()
    warn_once.cache_clear()
    made = Planted(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    event = {"event_id": "1", "event_type": "click", "advertiser_id": "a", "ip": "203.0.113.7"}
    line = json.dumps({**event, "occurred_at": "2026-03-01T10:00:00Z"})
    (folder / "a.jsonl").write_text(f"{line}\nno record\n")
    return folder


def all_of(folder: Path) -> list[bytes]:
    """Files of a folder, unpacked too."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [data, gzip.decompress(data) if path.suffix == ".gz" else b""]
    assert found
    return found


def told_by(*arguments: str) -> tuple[int, bytes]:
    """Exit code, and all that a process says."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_search_finds_what_is_there(planted: Planted) -> None:
    for name, value in planted.values.items():
        for text in (
            value.encode(),
            base64.b64encode(f"ann:{value}".encode()),
            base64.b64encode(f"x{value}yz".encode()),
            value.encode().hex().encode(),
        ):
            assert planted.found_in(b"some " + text + b" text") == {name}
    assert planted.found_in(b"nothing") == set()


def test_a_run_that_succeeds_tells_none(planted: Planted, logs: Path) -> None:
    """With pseudonyms, from a disk to S3, and all libraries at their most talkative."""
    store = S3Store()
    bucket = store.make_bucket()
    code, told = told_by(
        *("backfill", "--input", str(logs), "--output", f"s3://{bucket}/out"),
        *("--pii", "hash", "--pii-key-file", str(planted.key_file)),
        *(*store.arguments(store.url), "--debug"),
    )
    written = [
        gzip.decompress(data) if key.endswith("gz") else data
        for key, data in store.objects(bucket).items()
    ]
    store.stop()
    assert code == 0, told.decode()[-3000:]
    assert b" DEBUG " in told
    assert written
    assert planted.found_in(told, *written) == set()


def echo(status: int, request: Request) -> Refused:
    """A server that says what it was told, as some proxies do."""
    authorization = request.headers.get("authorization", "")
    error = {"type": authorization, "reason": authorization}
    return Refused(status, json.dumps({"error": error, "status": status}).encode())


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("kind", ["key", "file", "password"])
def test_a_run_that_is_refused_tells_none(
    planted: Planted,
    logs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)

    def judge(request: Request) -> Refused:
        return echo(status, request)

    given = {
        "key": ((), {es.API_KEY_ENV: planted.values["apikey"]}),
        "file": (("--elasticsearch-api-key-file", str(planted.api_key_file)), {}),
        "password": (
            ("--elasticsearch-username", "ann"),
            {es.PASSWORD_ENV: planted.values["password"]},
        ),
    }
    options, environment = given[kind]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with FaultProxy("http://127.0.0.1:9", judge) as proxy:
        result = CliRunner().invoke(
            cli,
            [
                *("backfill", "--input", str(logs), "--output", str(tmp_path / "out")),
                *("--elasticsearch", proxy.url, "--elasticsearch-retry-seconds", "0", *options),
                *(("--debug",) if status == 401 else ()),
            ],
        )
        sent = [one.headers.get("authorization", "").encode() for one in proxy.seen]
    assert result.exit_code == 1
    assert planted.found_in(*sent), "the secret was used"
    trace = "".join(traceback.format_exception(result.exception))
    told = "".join([result.output, caplog.text, trace])
    assert str(status) in told
    assert planted.found_in(told.encode(), *all_of(tmp_path / "out")) == set()


WRONG = [
    ("--s3_secret_access_key={}", "AWS_SECRET_ACCESS_KEY"),
    ("--s3_session_token={}", "AWS_SESSION_TOKEN"),
    ("--s3_secret_acess_key={}", "is no option"),
    ("--elasticsearch-api-key={}", "is no option"),
    ("--elasticsearch=https://ann:{}@host", "password"),
    ("--s3_endpoint_url=https://ann:{}@host", "password"),
    ("--s3_endpoint_url=ann:{}@host", "'@'"),
    ("--input=s3://key:{}@bucket/logs", "password"),
    ("--output=s3://key:{}@bucket/out", "password"),
    ("--mapping=https://ann:{}@host/m.toml", "password"),
]


@pytest.mark.parametrize(("argument", "why"), WRONG)
def test_secrets_where_they_do_not_belong_are_refused_and_not_repeated(
    planted: Planted, logs: Path, tmp_path: Path, argument: str, why: str
) -> None:
    given = ["backfill", "--input", str(logs), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*given, argument.format(planted.values["password"])])
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())
    assert planted.found_in(result.output.encode()) == set()
    assert not (tmp_path / "out").exists()


def test_what_an_insecure_s3_would_be_is_refused(logs: Path, tmp_path: Path) -> None:
    given = ["backfill", "--input", str(logs), "--output", str(tmp_path / "out")]
    for option in ("--s3_disable_ssl", "--s3_verify=False", "--s3_endpoint_url=host:9000"):
        result = CliRunner().invoke(cli, [*given, option])
        assert result.exit_code == 2, result.output


def test_no_graph_has_one(planted: Planted, tmp_path: Path, monkeypatch: Any) -> None:
    """Flink keeps it with the job."""
    monkeypatch.setenv(es.API_KEY_ENV, planted.values["apikey"])
    monkeypatch.setenv(es.PASSWORD_ENV, planted.values["password"])
    monkeypatch.setattr("__main__.left_there", dict(planted.values), raising=False)
    arguments = [
        *("--source", "kinesis://events", "--kinesis-region", "us-east-1"),
        *("--output", str(tmp_path / "out"), "--alerts", "kinesis://alerts", "--rollup", "1h"),
        *("--elasticsearch", "https://search.example", "--elasticsearch-username", "ann"),
        *("--elasticsearch-api-key-file", str(planted.api_key_file)),
        *("--pii", "hash", "--pii-key-file", str(planted.key_file)),
        *("--runner", "FlinkRunner", "--flink-job-endpoint", "localhost:8099"),
    ]
    context = stream.make_context("stream", arguments)
    request = stream_request(context.params, (), elasticsearch_of(context.params))
    pipeline = beam.Pipeline()
    build(pipeline, job=planned(request))
    graph = unpacked(pipeline.to_runner_api().SerializeToString())
    for name in (planted.key_file, planted.api_key_file):
        assert str(name).encode() in graph, "where a secret lies is told, and the search sees it"
    seen = [graph, repr(request).encode(), repr(request.arguments).encode()]
    assert planted.found_in(*seen) == set()


def unpacked(data: bytes) -> bytes:
    """With what Beam packed into it: functions are pickled, compressed, and base64."""
    found = [data]
    for run in re.findall(rb"[A-Za-z0-9+/]{40,}=*", data):
        for offset in range(8):  # a length in front of it may look like a part of it
            for decompress in (bz2.decompress, zlib.decompress):
                with contextlib.suppress(ValueError, OSError, zlib.error):
                    found.append(decompress(base64.b64decode(run[offset:])))
    return b"\0".join(found)


def test_a_file_that_others_may_read_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    file = tmp_path / "secret"
    file.write_text("a secret\r\n")
    file.chmod(0o604)
    assert [read_secret(str(file)) for _ in range(2)] == ["a secret"] * 2
    (line,) = caplog.records
    assert (line.levelname, f"chmod 600 {file}" in line.getMessage()) == ("WARNING", True)
    file.chmod(0o640)
    warn_once.cache_clear()
    caplog.clear()
    read_secret(str(file))
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SecretError, match=r"is empty|cannot be read"):
        read_secret(str(file))


def test_reprs(planted: Planted) -> None:
    config = es.ElasticsearchConfig(("https://h",), api_key_file=str(planted.api_key_file))
    made: list[Any] = [config, pii.Pii.hashed(str(planted.key_file)), es.connect(config)]
    assert planted.found_in(*(f"{one!r} {one}".encode() for one in made)) == set()
