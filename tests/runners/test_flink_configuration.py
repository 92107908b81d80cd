"""One configuration of Flink for every cluster: read by Flink itself, beside its copies."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from adtally.runners.local import flink_parts
from adtally.runners.local.flink_cluster import JobManager
from adtally.runners.local.flink_parts import SHARED_SETTINGS, install_flink, shared_settings
from adtally.runners.local.service import MissingSystemPart, ServiceFailed
from tests.nodes import skipped_without

CHECK = Path(__file__).parent / "flink" / "CheckConfiguration.java"

WHERE_IT_RUNS = {
    *("jobmanager.rpc.address", "jobmanager.rpc.port", "jobmanager.bind-host"),
    *("rest.address", "rest.bind-address", "rest.port"),
    *("taskmanager.host", "taskmanager.bind-host", "metrics.reporter.prom.port"),
    *("io.tmp.dirs", "state.checkpoints.dir", "state.savepoints.dir"),
    *("taskmanager.numberOfTaskSlots", "taskmanager.cpu.cores"),
}
"""What a cluster on this machine may have otherwise, besides memory."""

BY_PLUGINS = re.compile(r"metrics\.reporter\.prom\.(factory\.class|port)|s3\..*|fs\.s3a\..*")
"""Keys that no class of options has; the integration test scrapes and writes through them."""


def faults(folder: Path, *more: str) -> list[str]:
    """What Flink does not know or refuses in a configuration folder."""
    flink = skipped_without(install_flink)
    command = ["java", "-cp", f"{flink}/*", str(CHECK), str(folder)]
    (distribution,) = flink.glob("flink-dist-*.jar")
    done = subprocess.run(
        [*command, str(distribution), *more], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if "\t" in line]
    return [line for line in lines if not BY_PLUGINS.fullmatch(line.partition("\t")[2])]


def test_the_cluster_of_this_machine_differs_by_where_it_runs(tmp_path: Path) -> None:
    shared = shared_settings()
    local = JobManager(tmp_path).settings()
    differing = {key for key in shared | local if shared.get(key) != local.get(key)}
    assert {key for key in differing if ".memory." not in key} <= WHERE_IT_RUNS
    assert local["state.backend.type"] == "rocksdb"


def test_our_reading_of_the_file_is_that_of_yaml() -> None:
    read: dict[str, Any] = yaml.safe_load(SHARED_SETTINGS.read_text())
    assert read.keys() == shared_settings().keys()
    plain = {key: str(value) for key, value in read.items() if not isinstance(value, bool)}
    assert plain.items() <= shared_settings().items()


def test_flink_knows_every_key_takes_every_value_and_the_memory_adds_up(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(SHARED_SETTINGS.read_bytes())
    assert faults(tmp_path, "memory") == []
    wrong = SHARED_SETTINGS.read_text().replace("10 min", "10 moons")
    wrong = wrong.replace("heartbeat.timeout", "heartbeat.patience")
    wrong = wrong.replace("process.size: 4g", "process.size: 400m")
    (tmp_path / "config.yaml").write_text(wrong)
    found = faults(tmp_path, "memory")
    assert "unknown\theartbeat.patience" in found
    assert "refused\texecution.checkpointing.timeout" in found
    assert any(line.startswith("memory\t") for line in found)


@pytest.mark.parametrize(
    "line",
    [
        "heartbeat.timeout:30000",
        "heartbeat.timeout",
        " heartbeat.timeout: 1",
        "heartbeat.timeout: ",
        "heartbeat.interval: 1",  # a second time
    ],
)
def test_a_line_that_flink_would_read_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"# ours\n\nheartbeat.interval: 2000\n{line}\n")
    monkeypatch.setattr(flink_parts, "SHARED_SETTINGS", file)
    with pytest.raises(ServiceFailed, match="write each key once"):
        shared_settings()


def test_without_java_flink_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTALLY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingSystemPart, match="java, mvn"):
        install_flink()
