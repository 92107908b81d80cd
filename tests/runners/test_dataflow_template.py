"""The Flex Template: its parameters are options of ours, and its launcher's words are understood.

The image was never built and the launcher never seen; what it says is as Google documents it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from google.cloud.dataflow_v1beta3 import TemplateMetadata

from adtally.pipelines.dataflow_cli import OURS
from adtally.pipelines.stream_cli import stream, stream_request
from adtally.pipelines.template import _option, arguments

FOLDER = Path(__file__).parents[2] / "runners" / "deploy" / "dataflow"
METADATA = json.loads((FOLDER / "metadata.json").read_text())
PARAMETERS = {one["name"]: one for one in METADATA["parameters"]}

LAUNCHER = (
    *("--runner=DataflowRunner", "--streaming", "--project=my-project", "--region=europe-west1"),
    *("--job_name=clicks", "--temp_location=gs://my-bucket/tmp"),
    *("--staging_location=gs://my-bucket/staging", "--num_workers=2", "--max_num_workers=8"),
    *("--template_location=gs://my-bucket/staging/template_launches/1/job_object",),
    "--service_account_email=worker@my-project.iam.gserviceaccount.com",
    *("--machine_type=n2-standard-4", '--labels={"team": "ads", "stage": ""}'),
    *("--network=net", "--subnetwork=regions/europe-west1/subnetworks/sub"),
    *("--no_use_public_ips", "--experiments=one", "--enable_streaming_engine"),
)

EXAMPLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "source": (
        ("kinesis://a,kinesis://b", "pubsub://projects/p/subscriptions/s"),
        ("clicks", "", "kinesis://a b"),
    ),
    "output": (("gs://my-bucket/out",), ("out", "s3://b/out", "gs://my-bucket/", "gs://B/out")),
    "sdk_container_image": (("registry/adtally:1",), ("", "a b")),
    "start": (("LATEST", "TRIM_HORIZON", "2026-03-01T12:00:00Z"), ("now", "12:00")),
    "kinesis_region": (("eu-central-1",), ("eu central",)),
    "mapping": (("gs://my-bucket/mapping.toml",), ("mapping.toml",)),
    "window": (("60s", "5m", "60"), ("1 minute", "-5s")),
    "rollup": (("1h", "1h,1d"), ("1h;1d", "hour")),
    "dimensions": (("campaign_id,country",), ("campaign id",)),
    "max_rows_per_window": (("10000", "0"), ("-1", "many", "1e4")),
    "allowed_lateness": (("1h",), ("an hour",)),
    "watermark_lag": (("30s",), ("30 seconds",)),
    "pane_every": (("10s",), ("ten",)),
    "flush_every": (("5m",), ("5min",)),
    "shards": (("4", "16"), ("0", "-1", "four")),
    "rules": (("gs://my-bucket/rules.toml",), ("rules.toml",)),
    "pii": (("keep", "truncate", "hash"), ("drop",)),
    "pii_key_file": (("gs://my-bucket/key",), ("0123456789abcdef",)),
    "pubsub_id_attribute": (("uid",), ("u id",)),
    "dead_letters_to": (("pubsub://projects/p/topics/t",), ("t", "kinesis://t")),
    "alerts": (
        ("kinesis://alerts", "pubsub://projects/p/topics/t", "gs://my-bucket/alerts"),
        ("alerts.jsonl",),
    ),
    "elasticsearch": (("https://a:9200", "http://a,http://b"), ("a:9200",)),
    "elasticsearch_index_prefix": (("adtally", "a.b-c_d"), ("*", "Adtally")),
    "elasticsearch_api_key_file": (("gs://my-bucket/api-key",), ("VnVhQ2ZHY0JDZGJrU==",)),
    "elasticsearch_username": (("ann",), ("ann b",)),
    "elasticsearch_password_file": (("gs://my-bucket/password",), ("hunter2",)),
}


def given(*launched: str) -> dict[str, Any]:
    """What the command line has, of what the launcher says."""
    command, *rest = arguments(launched)
    assert command == "stream"
    return stream.make_context("stream", rest).params


def test_google_reads_the_metadata() -> None:
    read = TemplateMetadata.from_json(json.dumps(METADATA))  # refuses fields that it does not know
    assert read.streaming and len(read.parameters) == len(PARAMETERS) == len(METADATA["parameters"])


def test_parameters_are_options_and_needed_where_they_are() -> None:
    for name, parameter in PARAMETERS.items():
        option = _option(OURS.get(name, name.replace("_", "-")))
        assert option is not None, f"{name} is no option of 'adtally stream'"
        needed = option.required or name == "sdk_container_image"  # Beam's own image lacks us
        assert parameter["isOptional"] is not needed, name
        assert parameter["helpText"] and parameter["label"]


def test_every_parameter_has_examples() -> None:
    assert set(EXAMPLES) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_checks_take_what_the_command_line_takes(name: str) -> None:
    (regex,) = PARAMETERS[name]["regexes"]
    good, bad = EXAMPLES[name]
    for value in good:
        assert re.search(regex, value), f"{name}={value}"
        needed = {"source": "kinesis://clicks", "output": "gs://my-bucket/out", name: value}
        taken = given(*(f"--{key}={text}" for key, text in needed.items()))
        option = _option(OURS.get(name, name.replace("_", "-")))
        assert option is not None and option.name is not None
        assert taken[option.name] not in (None, "", ())
    for value in bad:
        assert not re.search(regex, value), f"{name}={value}"


def test_the_launchers_words_become_ours() -> None:
    parameters = ("--source=kinesis://a,kinesis://b", "--output=gs://my-bucket/out", "--rules=")
    more = ("--rollup=1h,1d", "--sdk_container_image=registry/adtally:1")
    words = given(*LAUNCHER, *parameters, *more)
    assert words["sources"] == ("kinesis://a", "kinesis://b")
    assert words["rollup"] == (3_600, 86_400)
    assert words["rules"] is None  # left empty in a form
    request = stream_request({**words, "output": "out", "dataflow_dry_run": "dry"}, (), None)
    config = request.dataflow
    assert (config.project, config.region, config.job_name) == (
        "my-project",
        "europe-west1",
        "clicks",
    )
    assert (config.temp_location, config.staging_location) == (
        "gs://my-bucket/tmp",
        "gs://my-bucket/staging",
    )
    assert config.template_location.endswith("/job_object")
    assert config.service_account == "worker@my-project.iam.gserviceaccount.com"
    assert (config.workers, config.max_workers, config.public_ips) == (2, 8, False)
    assert (config.machine_type, config.network) == ("n2-standard-4", "net")
    assert config.labels == ("team=ads", "stage=")
    assert (config.image, config.package) == ("registry/adtally:1", "")


def test_what_is_not_ours_is_handed_on_to_beam() -> None:
    launched = (*LAUNCHER, "--source=kinesis://a", "--output=gs://my-bucket/out")
    context = stream.make_context("stream", arguments(launched)[1:])
    assert context.args == ["--experiments=one"]


def test_the_file_that_the_launcher_calls_ends_as_the_command_line_does() -> None:
    called = [sys.executable, str(FOLDER / "launch.py")]
    done = subprocess.run([*called, "--help"], capture_output=True, text=True, check=True)
    assert "Usage: adtally stream" in done.stdout
    wrong = [*called, *LAUNCHER, "--source=clicks", "--output=gs://my-bucket/out"]
    done = subprocess.run(
        [*wrong, "--sdk_container_image=i"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "stream 'clicks' is not known" in done.stderr


def test_the_image_has_the_beam_and_python_that_were_tested() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"FROM apache/beam_python{python}_sdk:{beam.__version__}\n" in text
    copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE)
    root = FOLDER.parents[2]
    assert all((root / one).is_file() for one in copied if not one.startswith("dist/"))
    assert "ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py\n" in text


@pytest.mark.slow
def test_gcloud_makes_a_template_of_it(tmp_path: Path) -> None:
    """It only prints what it would store, and asks nobody."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    made = subprocess.run(
        [
            *("gcloud", "dataflow", "flex-template", "build", "gs://my-bucket/template.json"),
            *("--image", "registry/adtally:1", "--sdk-language", "PYTHON", "--print-only"),
            *("--metadata-file", str(FOLDER / "metadata.json"), "--project", "my-project"),
        ],
        env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    spec = json.loads(made.stdout[made.stdout.index("{") :])
    assert spec["image"] == "registry/adtally:1"
    assert spec["sdkInfo"] == {"language": "PYTHON"}
    assert spec["metadata"]["name"] == METADATA["name"]  # this gcloud leaves "streaming" out
    assert spec["metadata"]["parameters"] == METADATA["parameters"]


def test_an_update_by_the_launcher_is_one_of_ours() -> None:
    needed = ("--source=kinesis://a", "--output=gs://my-bucket/out", "--sdk_container_image=i")
    words = given(*LAUNCHER, *needed, "--update", '--transform_name_mapping={"A/b": "A/c"}')
    request = stream_request({**words, "output": "out", "dataflow_dry_run": "dry"}, (), None)
    assert (request.dataflow.update, request.dataflow.renamed) == (True, ("A/b=A/c",))
