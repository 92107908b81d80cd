"""One configuration of Flink for every cluster: read by Flink itself, beside its copies."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from adtally.runners.local import flink_parts
from adtally.runners.local.flink_cluster import JobManager
from adtally.runners.local.flink_parts import SHARED_SETTINGS, install_flink, shared_settings
from adtally.runners.local.service import MissingSystemPart, ServiceFailed
from tests.nodes import skipped_without
from tests.runners.flink_manifests import OVERLAYS, one

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


def faults(*folders: Path) -> set[tuple[str, str, str]]:
    """What Flink does not know or refuses in configuration folders: folder, what, key."""
    flink = skipped_without(install_flink)
    (distribution,) = flink.glob("flink-dist-*.jar")
    command = ["java", "-cp", f"{flink}/*", str(CHECK), str(distribution), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    return {
        (Path(folder).name, what, key)
        for folder, what, key in lines
        if not BY_PLUGINS.fullmatch(key)
    }


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
    text = SHARED_SETTINGS.read_text()
    wrong = text.replace("10 min", "10 moons").replace("heartbeat.timeout", "heartbeat.patience")
    texts = {"shared": text, "wrong": wrong.replace("process.size: 4g", "process.size: 400m")}
    for overlay in OVERLAYS:
        found = one(overlay, "FlinkDeployment")["spec"]["flinkConfiguration"]
        texts[overlay] = "".join(f"{key}: {value}\n" for key, value in found.items())
    for name, content in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(content)
    assert faults(*(tmp_path / name for name in texts)) == {
        ("wrong", "unknown", "heartbeat.patience"),
        ("wrong", "refused", "execution.checkpointing.timeout"),
        ("wrong", "refused", "restart-strategy.exponential-delay.reset-backoff-threshold"),
        ("wrong", "memory", "IllegalConfigurationException"),
    }


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


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ("aws", "fs.s3a.aws.credentials.provider"),
        ("aws", "metrics.reporter.prom.factory.class"),
        ("gcp", "metrics.reporter.prom.factory.class"),
    ],
)
def test_a_class_that_is_named_is_in_a_plugin(overlay: str, key: str) -> None:
    named = one(overlay, "FlinkDeployment")["spec"]["flinkConfiguration"][key]
    jars = skipped_without(install_flink).glob("plugins/*/*.jar")
    wanted = f"{named.replace('.', '/')}.class"
    assert any(wanted in zipfile.ZipFile(jar).namelist() for jar in jars)
