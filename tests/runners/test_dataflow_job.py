"""A job for Dataflow, built as it would be sent: its graph, its options, what it does not tell."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from click.testing import CliRunner, Result

from adtally.io.elasticsearch import API_KEY_ENV
from adtally.pipelines.cli import cli
from adtally.runners.dataflow import steps
from adtally.runners.local.pubsub_server import PubSubServer
from tests.topics import place

SNAPSHOT = Path(__file__).parents[1] / "data" / "dataflow_steps.txt"
ARN = "kinesis://arn:aws:kinesis:eu-central-1:123456789012:stream/events"
CANARY = "canary-4d5b9e"


def dry_run(folder: Path, *arguments: str) -> Result:
    """``adtally stream`` for Dataflow with all parts of the graph, written to ``folder``/dry."""
    return CliRunner().invoke(cli, command(folder, *arguments))


def command(folder: Path, *arguments: str) -> list[str]:
    return [
        *("stream", "--source", ARN, "--output", str(folder / "out"), "--rollup", "1h"),
        *("--alerts", "gs://my-bucket/alerts", "--elasticsearch", "http://localhost:9200"),
        *("--runner", "DataflowRunner", "--dataflow-project", "my-project"),
        *("--dataflow-region", "europe-west1", "--dataflow-job-name", "clicks"),
        *("--dataflow-temp-location", "gs://my-bucket/tmp"),
        *("--dataflow-image", "registry/adtally:1"),
        *("--dataflow-dry-run", str(folder / "dry"), *arguments),
    ]


def graph(folder: Path) -> Any:
    return beam_runner_api_pb2.Pipeline.FromString((folder / "dry" / "pipeline.pb").read_bytes())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataflow")
    result = dry_run(
        folder,
        *("--dataflow-staging-location", "gs://my-bucket/staging", "--dataflow-workers", "2"),
        *("--dataflow-max-workers", "8", "--dataflow-machine-type", "n2-standard-4"),
        *("--dataflow-autoscaling", "THROUGHPUT_BASED", "--dataflow-no-public-ips"),
        *("--dataflow-service-account", "worker@my-project.iam.gserviceaccount.com"),
        *("--dataflow-network", "net"),
        *("--dataflow-subnetwork", "regions/europe-west1/subnetworks/sub"),
        *("--dataflow-label", "team=ads", "--dataflow-label", "stage", "--dataflow-update"),
        *("--experiments=one", "--dataflow_service_options=graph_validate_only"),
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def job(built: Path) -> dict[str, Any]:
    return json.loads((built / "dry" / "job.json").read_text())


def test_a_dry_run_writes_the_job_and_nothing_else(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {"dry"}
    assert {path.name for path in (built / "dry").iterdir()} == {"job.json", "pipeline.pb"}


def test_the_job_is_a_stream_with_the_options_that_were_given(job: dict[str, Any]) -> None:
    assert (job["name"], job["type"]) == ("clicks", "JOB_TYPE_STREAMING")
    assert job["labels"] == {"team": "ads", "stage": ""}
    environment = job["environment"]
    assert environment["serviceAccountEmail"] == "worker@my-project.iam.gserviceaccount.com"
    assert environment["serviceOptions"] == ["graph_validate_only"]
    assert environment["tempStoragePrefix"].startswith("storage.googleapis.com/my-bucket/tmp/")
    (pool,) = environment["workerPools"]
    assert (pool["numWorkers"], pool["autoscalingSettings"]["maxNumWorkers"]) == (2, 8)
    assert pool["autoscalingSettings"]["algorithm"] == "AUTOSCALING_ALGORITHM_BASIC"
    assert (pool["machineType"], pool["network"]) == ("n2-standard-4", "net")
    assert pool["subnetwork"] == "regions/europe-west1/subnetworks/sub"
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert pool["workerHarnessContainerImage"] == "registry/adtally:1"
    options = environment["sdkPipelineOptions"]["options"]
    assert (options["project"], options["region"]) == ("my-project", "europe-west1")
    assert options["streaming"] is True


def test_state_lies_in_the_service_and_experiments_are_handed_on(job: dict[str, Any]) -> None:
    experiments = job["environment"]["experiments"]
    assert {"enable_streaming_engine", "enable_windmill_service", "use_runner_v2"} <= {*experiments}
    assert "one" in experiments


def test_the_graph_reads_tallies_and_writes_everywhere(built: Path) -> None:
    composites = {name.partition("/")[0] for name in steps(graph(built))}
    assert composites >= {
        *("ReadKinesis", "DecodeEvents", "WriteEventLog", "SliceByWindow", "TallyWindows"),
        *("WriteSummaries60s", "WriteSummaries3600s", "IndexSummaries60s", "WriteFlags"),
        *("JudgeHistory", "JudgeSeries", "SendAlerts", "WriteLate", "WriteDeadLetters"),
    }


def test_names_of_steps_are_those_of_the_release(built: Path) -> None:
    """To rename on purpose, write the new names into the snapshot and tell of it: see below."""
    now, before = set(steps(graph(built))), set(SNAPSHOT.read_text().splitlines())
    assert now == before, (
        f"steps were {sorted(before - now)}, and are {sorted(now - before)}. A running job finds "
        f"its state by these names: `adtally stream --dataflow-update` would be refused, or lose "
        f"it. Undo it; or, if it is meant, put the new names into {SNAPSHOT.name}, and the "
        f"--dataflow-renamed OLD=NEW that an update needs into CHANGELOG.md."
    )


def test_names_of_steps_and_coders_are_the_same_in_every_start(built: Path, tmp_path: Path) -> None:
    again = [sys.executable, "-m", "adtally.pipelines", *command(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = graph(built), graph(tmp_path)
    assert steps(first) == steps(second)
    assert coders(first) == coders(second)
    assert first != second  # each start has an id of its own, so the comparison compares


def coders(pipeline: Any) -> dict[str, list[str]]:
    """What crosses between steps, by step: an update is refused where that changes."""
    components = pipeline.components

    def written(coder_id: str) -> str:
        coder = components.coders[coder_id]
        parts = ",".join(written(part) for part in coder.component_coder_ids)
        return f"{coder.spec.urn}{coder.spec.payload!r}({parts})"

    return {
        step.unique_name: [
            written(components.pcollections[output].coder_id)
            for _, output in sorted(step.outputs.items())
        ]
        for step in components.transforms.values()
    }


def test_a_dry_run_of_an_update_says_nothing_of_the_job_to_replace(job: dict[str, Any]) -> None:
    assert "replaceJobId" not in job  # that would need an answer from Dataflow


def test_no_secret_is_in_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the environment, nor what the program that starts the job knows."""
    secrets = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    for name in (*secrets, "GOOGLE_APPLICATION_CREDENTIALS", API_KEY_ENV):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setattr("__main__.adtally_secret", CANARY, raising=False)
    key = ("--elasticsearch-api-key-file", "gs://my-bucket/api-key")
    result = dry_run(tmp_path, *key)
    assert result.exit_code == 0, result.output
    sent = told(tmp_path / "dry")
    assert b"gs://my-bucket/api-key" in sent  # only where it lies
    assert CANARY.encode() not in sent
    assert {path.name for path in (tmp_path / "dry").iterdir()} == {"job.json", "pipeline.pb"}


def told(folder: Path) -> bytes:
    """All that is sent, with what Beam packed: functions are pickled, compressed, and base64."""
    sent = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    unpacked = []
    for run in re.findall(rb"[A-Za-z0-9+/]{40,}=*", sent):
        for offset in range(8):  # a length in front of it may look like a part of it
            for decompress in (bz2.decompress, zlib.decompress):
                with contextlib.suppress(ValueError, OSError, zlib.error):
                    unpacked.append(decompress(base64.b64decode(run[offset:])))
    assert len(unpacked) > 20
    return b"".join([sent, *unpacked])


def test_a_secret_of_this_machine_ends_it_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_ENV, CANARY)
    result = dry_run(tmp_path)
    assert result.exit_code == 2
    assert f"{API_KEY_ENV} is set on this machine" in result.output
    assert CANARY not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = dry_run(tmp_path, "--dataflow-region", "europe-west1-b")
    assert result.exit_code == 2
    assert re.search(r"^adtally: region 'europe-west1-b' is none; .*$", result.output, re.MULTILINE)
    assert "Traceback" not in result.output


def test_pubsub_is_read_by_the_service(tmp_path: Path, pubsub_server: PubSubServer) -> None:
    source = place(pubsub_server, "dataflow-job")
    result = dry_run(tmp_path, *source.source)
    assert result.exit_code == 0, result.output
    pipeline = graph(tmp_path)
    names = {one.unique_name for one in pipeline.components.transforms.values()}
    assert {"ReadPubSub1/Read/Read", "ReadPubSub1/Collect", "PubSubChunks1/To chunk"} <= names
    assert not any("Pull" in name for name in names)  # ours, which acknowledges by itself
    (payload,) = [
        beam_runner_api_pb2.PubSubReadPayload.FromString(one.spec.payload)
        for one in pipeline.components.transforms.values()
        if one.spec.urn == "beam:transform:pubsub_read:v1"
    ]
    assert (payload.subscription, payload.with_attributes) == (source.config.subscription, True)
    assert not (tmp_path / "out").exists()
