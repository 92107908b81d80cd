"""A start on Dataflow by the command line, to where the cloud begins.

Storage is an emulator; what is asked of Dataflow is kept, and answered as far as Beam needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adtally.runners.local.gcs_server import GcsServer
from tests.dataflow_service import DataflowService
from tests.nodes import started

pytestmark = pytest.mark.slow

BUCKET = "my-bucket"
ARN = "kinesis://arn:aws:kinesis:eu-central-1:123456789012:stream/events"


@pytest.fixture(scope="module")
def storage() -> Iterator[GcsServer]:
    server = started(GcsServer())
    server.client().create_bucket(BUCKET)
    yield server
    server.stop()


@pytest.fixture
def service() -> Iterator[DataflowService]:
    service = DataflowService()
    yield service
    service.stop()


class Launcher:
    """Runs ``adtally stream`` as a user with credentials would, in a process of its own."""

    def __init__(self, storage: GcsServer, service: DataflowService, folder: Path) -> None:
        self._service = service
        credentials = folder / "credentials.json"
        service.write_credentials(credentials)
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = {
            **kept,
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "STORAGE_EMULATOR_HOST": storage.url,
        }

    def run(
        self, code: list[str], timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *code],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def stream(self, output: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            [
                *("-m", "adtally.pipelines", "stream", "--source", ARN),
                *("--output", f"gs://{BUCKET}/{output}", "--runner", "DataflowRunner"),
                *("--dataflow-project", "my-project", "--dataflow-region", "europe-west1"),
                *("--dataflow-temp-location", f"gs://{BUCKET}/{output}-tmp"),
                *("--dataflow-job-name", "clicks", "--dataflow-image", "registry/adtally:1"),
                *(f"--dataflow_endpoint={self._service.url}", *arguments),
            ]
        )

    def stored(self, folder: str) -> dict[str, str]:
        """Texts by address of what lies below a folder of the bucket."""
        code = (
            "import json, sys\n"
            "from apache_beam.io.filesystems import FileSystems\n"
            "from apache_beam.options.pipeline_options import PipelineOptions\n"
            "FileSystems.set_options(PipelineOptions([]))\n"
            "(found,) = FileSystems.match([sys.argv[1]])\n"
            "read = lambda path: FileSystems.open(path).read().decode(errors='replace')\n"
            "print(json.dumps({one.path: read(one.path) for one in found.metadata_list}))\n"
        )
        done = self.run(["-c", code, f"gs://{BUCKET}/{folder}/**"])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def launcher(storage: GcsServer, service: DataflowService, tmp_path: Path) -> Launcher:
    return Launcher(storage, service, tmp_path)


def creations(service: DataflowService) -> list[dict[str, Any]]:
    path = "/v1b3/projects/my-project/locations/europe-west1/jobs"
    assert sum(one.startswith(f"POST {path}") for one in service.asked) == len(service.submitted)
    return service.submitted


def test_a_job_is_submitted_once_and_left_alone(
    launcher: Launcher, service: DataflowService
) -> None:
    done = launcher.stream("started")
    assert done.returncode == 0, done.stderr
    (job,) = creations(service)
    assert (job["name"], job["type"]) == ("clicks", 2)  # JOB_TYPE_STREAMING
    assert "replaceJobId" not in job
    assert "2026-03-01_00_00_00-1" in done.stderr
    assert "gcloud dataflow jobs drain 2026-03-01_00_00_00-1 --project my-project" in done.stderr
    assert not any("GET" in one for one in service.asked)  # nobody watches, nobody cancels

    graph = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    assert graph.startswith(f"gs://{BUCKET}/started-tmp/clicks.")
    assert list(launcher.stored("started-tmp")) == [graph]  # no package: workers have an image
    output = launcher.stored("started")
    names = {path.rpartition("/")[2] for path in output}
    assert names == {"adtally.json", "views.sql", "_empty.parquet", "_empty.jsonl.gz"}
    assert json.loads(output[f"gs://{BUCKET}/started/adtally.json"])["stream_shards"] == 4


def test_an_update_replaces_the_job_that_runs(launcher: Launcher, service: DataflowService) -> None:
    service.running = {"other": "job-1", "clicks": "job-2"}
    done = launcher.stream("updated", "--dataflow-update", "--dataflow-renamed", "A/b=A/c")
    assert done.returncode == 0, done.stderr
    (job,) = creations(service)
    assert job["replaceJobId"] == "job-2"
    assert job["transformNameMapping"] == {"A/b": "A/c"}


def test_an_update_of_what_does_not_run_ends_at_once(
    launcher: Launcher, service: DataflowService
) -> None:
    """Beam by itself asks for the list of jobs again and again."""
    service.running = {"other": "job-1"}
    done = launcher.stream("missing", "--dataflow-update")
    assert done.returncode == 2, done.stderr
    assert "no job 'clicks' runs in my-project, europe-west1" in done.stderr
    assert creations(service) == []
    assert launcher.stored("missing") == {}  # nothing was settled for a job that never was


def test_a_template_is_written_and_not_started(
    launcher: Launcher, service: DataflowService
) -> None:
    place = f"gs://{BUCKET}/templates/job.json"
    done = launcher.stream("template", "--dataflow-template-location", place)
    assert done.returncode == 0, done.stderr
    assert f"{place}, not started" in done.stderr
    assert creations(service) == []
    assert json.loads(launcher.stored("templates")[place])["name"] == "clicks"


def test_secrets_are_read_from_storage_as_workers_do(launcher: Launcher) -> None:
    code = (
        "from apache_beam.io.filesystems import FileSystems\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from adtally.io.elasticsearch_client import ElasticsearchConfig, connect\n"
        "from adtally.transforms.pii import Pii\n"
        "FileSystems.set_options(PipelineOptions([]))\n"
        f"place = 'gs://{BUCKET}/secret'\n"
        "with FileSystems.create(place) as file:\n"
        "    file.write(b'id:key-of-sixteen-bytes')\n"
        "config = ElasticsearchConfig(('http://localhost:9200',), api_key_file=place)\n"
        "print(connect(config)._headers['authorization'])\n"
        "Pii.hashed(place).check()\n"
        "connect(ElasticsearchConfig(('http://localhost:9200',), api_key_file=place + '-none'))\n"
    )
    done = launcher.run(["-c", code])
    assert done.stdout == "ApiKey aWQ6a2V5LW9mLXNpeHRlZW4tYnl0ZXM=\n"
    assert f"secret file gs://{BUCKET}/secret-none cannot be read" in done.stderr
    assert "key-of-sixteen-bytes" not in done.stderr


def test_a_mapping_and_rules_are_read_from_storage(
    launcher: Launcher, service: DataflowService
) -> None:
    code = (
        "import sys\n"
        "from apache_beam.io.filesystems import FileSystems\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "FileSystems.set_options(PipelineOptions([]))\n"
        "for place, text in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    with FileSystems.create(place) as file:\n"
        "        file.write(text.encode())\n"
    )
    mapping, rules = (f"gs://{BUCKET}/settings/{name}.toml" for name in ("mapping", "rules"))
    shipped = (
        Path(__file__).parents[2] / "pipelines" / "mappings" / "talkingdata.toml"
    ).read_text()
    texts = shipped, "[quotas]\nclicks = 9\n"
    assert launcher.run(["-c", code, mapping, texts[0], rules, texts[1]]).returncode == 0
    done = launcher.stream("settings-of", "--mapping", f"{mapping}x", "--rules", rules)
    assert done.returncode == 2, done.stderr
    assert f"mapping '{mapping}x' cannot be read" in done.stderr
    assert creations(service) == []
    done = launcher.stream("settings-of", "--mapping", mapping, "--rules", rules)
    assert done.returncode == 0, done.stderr
    assert len(creations(service)) == 1
