"""Units of systemd, the images, and the commands of docs/flink.md: beside what is tested here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import promql_parser
import pytest

from adtally.pipelines.runner_options import runner_arguments
from adtally.pipelines.stream_cli import stream
from adtally.runners.local.flink_cluster import FlinkCluster, WorkerPool
from adtally.runners.local.flink_parts import FLINK_VERSION, JOB_SERVER_VERSION, OPENED
from tests import flink_metrics
from tests.runners.flink_manifests import DEPLOYED

ROOT = Path(__file__).parents[2]
UNITS = sorted((DEPLOYED / "systemd").glob("*.service"))
IMAGES = (DEPLOYED / "Dockerfile").read_text()
DOCUMENT = (ROOT / "docs" / "flink.md").read_text()


def command(unit: str) -> list[str]:
    """What a unit runs."""
    text = (DEPLOYED / "systemd" / f"adtally-{unit}.service").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(line)


def taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Beam options that our command line makes of a start; source and output as from outside."""
    monkeypatch.setenv("ADTALLY_SOURCES", "kinesis://clicks")
    monkeypatch.setenv("ADTALLY_OUTPUT", "s3://bucket/out")
    context = stream.make_context("stream", arguments)
    assert context.args == []  # nothing is passed over to Beam
    return runner_arguments(context.params)


def test_systemd_reads_every_unit() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on the PATH")
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, UNITS)], capture_output=True, text=True, check=False
    )
    assert UNITS
    told = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert told == []  # that their programs are not here is all


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_no_unit_runs_as_root_or_writes_elsewhere(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert [line for line in lines if line.startswith("User=")] != ["User=root"]
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes"} <= set(lines)
    assert any(line.startswith("User=") for line in lines)


def test_the_stream_s_command_line_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    program, name, *arguments = command("stream")
    assert (Path(program).name, name) == ("adtally", "stream")
    told = taken(arguments, monkeypatch)
    assert "--environment_config=localhost:50000" in told
    restarts = re.findall(r"^Restart=.*", (DEPLOYED / "systemd/adtally-stream.service").read_text())
    assert restarts == []  # a second start would run the stream twice


def test_the_job_server_and_the_pool_are_started_as_here(tmp_path: Path) -> None:
    here = FlinkCluster(tmp_path)
    names = [word.partition("=")[0] for word in here.job_server.command() if word[:2] == "--"]
    unit = command("jobserver")
    assert sorted(word.partition("=")[0] for word in unit if word[:2] == "--") == sorted(names)
    opened = {f"--add-opens={name}=ALL-UNNAMED" for name in OPENED}
    assert opened == {word for word in unit if word.startswith("--add-opens")}
    assert command("workers")[1:] == WorkerPool(tmp_path, port=50_000).command()[1:]


def test_the_images_hold_what_is_tested() -> None:
    assert f"FROM flink:{FLINK_VERSION}-" in IMAGES
    assert f"-$name-{FLINK_VERSION}.jar" in IMAGES.replace("flink-$name", "-$name")
    assert f"-Dbeam.version={JOB_SERVER_VERSION}" in IMAGES
    assert f"FROM python:{sys.version_info[0]}.{sys.version_info[1]}-" in IMAGES
    assert set(re.findall(r'"--add-opens=(\S+)=ALL-UNNAMED"', IMAGES)) == set(OPENED)
    for path in re.findall(r"^COPY (?!--from)(\S+) ", IMAGES, re.MULTILINE):
        assert path == "dist/adtally-*.tar.gz" or (ROOT / path).is_file()
    last_users = [
        re.findall(r"^USER (\S+)", stage, re.MULTILINE)
        for stage in re.split(r"^FROM ", IMAGES, flags=re.MULTILINE)[1:]
        if " AS jars" not in stage.splitlines()[0]
    ]
    assert len(last_users) == 3
    assert all(users and not users[-1].startswith(("0", "root")) for users in last_users)


def test_prometheus_can_read_every_rule() -> None:
    """Whether Flink has their metrics, the test of a stream on Flink asks a cluster."""
    for rule in flink_metrics.rules():
        promql_parser.parse(rule["expr"])
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in DOCUMENT


def test_the_commands_of_the_document_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    found = 0
    for block in re.findall(r"^```\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("adtally stream "):
                arguments = [word for word in shlex.split(line)[2:] if word != "..."]
                if "--stop-at" not in arguments:
                    arguments += ["--runner=FlinkRunner", "--flink-job-endpoint=localhost:8099"]
                taken(arguments, monkeypatch)
                found += 1
    assert found
    for path in re.findall(r"\((\.\./[^)#]+|[a-z0-9-]+\.md)[)#]", DOCUMENT):
        assert (ROOT / "docs" / path).exists(), path
