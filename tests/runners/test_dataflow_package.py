"""What workers install: the package that a job stages, installed by itself and put to use."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ARN = "kinesis://arn:aws:kinesis:eu-central-1:123456789012:stream/events"

LOAD = """
import importlib, pkgutil, sys
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.transforms.core import DoFnInfo
import adtally.io, adtally.pipelines, adtally.runners, adtally.transforms

packages = adtally.io, adtally.pipelines, adtally.runners, adtally.transforms
for package in packages:
    assert package.__file__.startswith(sys.prefix), package.__file__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
graph = api.Pipeline.FromString(open(sys.argv[1], "rb").read())
context = PipelineContext(graph.components)
coders = [context.coders.get_by_id(name) for name in graph.components.coders]
functions = [
    DoFnInfo.from_runner_api(api.ParDoPayload.FromString(step.spec.payload).do_fn, context)
    for step in graph.components.transforms.values()
    if step.spec.urn == "beam:transform:pardo:v1"
]
loaded = [pickler.loads(one.serialized_dofn_data())[0] for one in functions]
print(*(type(one).__module__ for one in (*coders, *loaded)))
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dry run without an image: its folder has what workers would install."""
    folder = tmp_path_factory.mktemp("package") / "dry"
    result = CliRunner().invoke(
        cli,
        [
            *("stream", "--source", ARN, "--output", "out", "--rollup", "1h"),
            *("--runner", "DataflowRunner", "--dataflow-project", "my-project"),
            *("--dataflow-region", "europe-west1"),
            *("--dataflow-temp-location", "gs://my-bucket/tmp"),
            *("--dataflow-dry-run", str(folder)),
        ],
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def wheel(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staged sdist, built with what is installed here: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    sdist = str(staged / "workflow.tar.gz")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *options, sdist],
        check=True,
        capture_output=True,
    )
    (built,) = folder.iterdir()
    return built


def test_nothing_but_the_package_is_staged(staged: Path) -> None:
    names = {path.name for path in staged.iterdir()}
    assert names == {"job.json", "pipeline.pb", "workflow.tar.gz"}


def test_it_has_every_module_and_every_file_that_modules_read(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    listing = ["git", "ls-files", "io", "pipelines", "runners", "transforms"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [file for file in listed.stdout.split() if not file.startswith("runners/deploy/")]
    files.append("runners/deploy/flink/config.yaml")  # the local cluster's, too
    wanted = {f"adtally/{file}" for file in files}
    assert len(wanted) > 100
    assert wanted - packed == {"adtally/runners/local/install_system.sh"}  # for a checkout only
    assert not {one for one in packed - wanted if ".dist-info/" not in one}


def test_it_asks_for_what_is_tested_here(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel)
    (name,) = [one for one in files.namelist() if one.endswith(".dist-info/METADATA")]
    asked = email.message_from_bytes(files.read(name)).get_all("Requires-Dist") or []
    asked = [one for one in asked if "extra ==" not in one]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert sorted(map(plain, asked)) == sorted(map(plain, wanted))
    assert all("==" in one for one in asked)


def plain(requirement: str) -> tuple[str, ...]:
    """Name, extras in order, version: packaging tools write extras in another order."""
    match = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?(==\S+)", requirement.replace(" ", ""))
    assert match is not None, requirement
    return (match[1], *sorted((match[2] or "").split(",")), match[3])


def test_workers_can_load_the_graph_with_it(staged: Path, wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, with the dependencies of this one and not its adtally."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([python, *install], check=True, capture_output=True)
    dependencies = {"PYTHONPATH": sysconfig.get_path("purelib")}  # links to checkouts do not count
    environment = {**os.environ, **dependencies}
    loading = [python, "-W", "ignore", "-c", LOAD, str(staged / "pipeline.pb")]
    done = subprocess.run(
        loading, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert "adtally.io.arrow" in modules  # a coder
    assert "adtally.transforms.decode_events" in modules  # a function
    assert sum(one.startswith("adtally.") for one in modules) >= 15
