"""Dataflow's options: what a job is told, and what is refused before anything is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from adtally.io.elasticsearch import API_KEY_ENV, PASSWORD_ENV, USERNAME_ENV, ElasticsearchConfig
from adtally.io.manifest import write_manifest
from adtally.pipelines.dataflow_cli import OURS
from adtally.pipelines.job import ConfigError
from adtally.pipelines.stream_cli import stream, stream_request
from adtally.runners.dataflow import DataflowConfig, checkout_setup
from adtally.runners.direct import unknown_arguments

CONFIG = DataflowConfig(
    project="my-project",
    region="europe-west1",
    temp_location="gs://my-bucket/tmp",
    image="registry/adtally:1",
)
NEEDED = (
    *("--runner", "DataflowRunner", "--dataflow-project", "my-project"),
    *("--dataflow-region", "europe-west1", "--dataflow-temp-location", "gs://my-bucket/tmp"),
)
ROOT = Path(__file__).parents[2]


def requested(*arguments: str, beam: tuple[str, ...] = (), elastic: Any = None) -> Any:
    """The request that the command line makes; a dry run, whose output may be on this machine."""
    base = ("--source", "kinesis://events", "--output", "out", "--dataflow-dry-run", "dry")
    given = stream.make_context("stream", [*base, *NEEDED, *arguments]).params
    return stream_request(given, beam, elastic)


def validated(config: DataflowConfig) -> list[str]:
    """What Beam finds wrong with the options; a dry run, as Beam asks Cloud Storage else."""
    options = PipelineOptions([*config.arguments(), "--dry_run=True", "--streaming"])
    return PipelineOptionsValidator(options, DataflowRunner()).validate()


def test_a_job_that_says_nothing_else_has_what_a_stream_needs() -> None:
    assert CONFIG.arguments() == [
        "--runner=DataflowRunner",
        "--project=my-project",
        "--region=europe-west1",
        "--temp_location=gs://my-bucket/tmp",
        "--staging_location=gs://my-bucket/tmp",
        "--job_name=adtally",
        "--enable_streaming_engine",
        "--no_save_main_session",
        "--experiments=disable_logging_submission_environment",
        "--sdk_container_image=registry/adtally:1",
    ]
    assert validated(CONFIG) == []


def test_beam_reads_all_that_is_told() -> None:
    config = replace(
        CONFIG,
        job_name="clicks",
        staging_location="gs://my-bucket/staging",
        service_account="worker@my-project.iam.gserviceaccount.com",
        network="net",
        subnetwork="regions/europe-west1/subnetworks/sub",
        public_ips=False,
        machine_type="n2-standard-4",
        workers=2,
        max_workers=8,
        autoscaling="THROUGHPUT_BASED",
        labels=("team=ads", "stage"),
        image="",
        package="dist/adtally-0.1.0.tar.gz",
        update=True,
        renamed=("Old/Step=New/Step",),
        template_location="gs://my-bucket/templates/job.json",
    )
    options = PipelineOptions(config.arguments())
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert (cloud.project, cloud.region, cloud.job_name) == ("my-project", "europe-west1", "clicks")
    assert cloud.temp_location == "gs://my-bucket/tmp"
    assert cloud.staging_location == "gs://my-bucket/staging"
    assert cloud.template_location == "gs://my-bucket/templates/job.json"
    assert cloud.service_account_email == "worker@my-project.iam.gserviceaccount.com"
    assert cloud.labels == ["team=ads", "stage"]
    assert cloud.update and cloud.transform_name_mapping == {"Old/Step": "New/Step"}
    assert (workers.network, workers.use_public_ips) == ("net", False)
    assert workers.subnetwork == "regions/europe-west1/subnetworks/sub"
    assert (workers.machine_type, workers.autoscaling_algorithm) == (
        "n2-standard-4",
        "THROUGHPUT_BASED",
    )
    assert (workers.num_workers, workers.max_num_workers) == (2, 8)
    assert options.view_as(SetupOptions).extra_packages == ["dist/adtally-0.1.0.tar.gz"]
    assert options.view_as(SetupOptions).save_main_session is False
    assert workers.sdk_container_image is None


def test_a_dry_run_does_not_ask_for_the_job_that_it_would_update() -> None:
    arguments = replace(CONFIG, update=True, dry_run="dry").arguments()
    assert "--dry_run=True" in arguments
    assert "--update" not in arguments


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"project": "p"}, "project 'p' is no project's id"),
        ({"project": "My-Project"}, "project 'My-Project' is no project's id"),
        ({"project": "123456789012"}, "project '123456789012' .*not the number"),
        ({"region": "europe-west1-b"}, "region 'europe-west1-b' is none; .*without the letter"),
        ({"region": ""}, "region '' is none"),
        ({"job_name": "Clicks"}, "job name 'Clicks' would be refused"),
        ({"job_name": "clicks-"}, "job name 'clicks-' would be refused"),
        ({"job_name": "1clicks"}, "job name '1clicks' would be refused"),
        ({"temp_location": "tmp"}, "temp_location 'tmp' is no address in Cloud Storage"),
        ({"temp_location": ""}, "temp_location '' is no address"),
        ({"temp_location": "gs://my-bucket"}, "temp_location .*write gs://BUCKET/FOLDER"),
        ({"staging_location": "s3://b/c"}, "staging_location 's3://b/c' is no address"),
        ({"template_location": "/job.json"}, "template_location '/job.json' is no address"),
        ({"service_account": "worker"}, "service account 'worker' is no e-mail"),
        ({"subnetwork": "sub"}, "write regions/europe-west1/subnetworks/NAME"),
        ({"subnetwork": "regions/us-east1/subnetworks/sub"}, "is not in europe-west1"),
        ({"workers": -1}, "workers is -1"),
        ({"workers": 9, "max_workers": 8}, "workers is 9, above max_workers, 8"),
        ({"autoscaling": "MANY"}, "autoscaling 'MANY' is not known"),
        ({"labels": ("Team=ads",)}, "label 'Team=ads' would be refused"),
        ({"labels": ("team=the ads",)}, "label 'team=the ads' would be refused"),
        ({"labels": ("1=ads",)}, "label '1=ads' would be refused"),
        ({"labels": ("a" * 64,)}, "up to 63"),
        ({"labels": ("a=b=c",)}, "label 'a=b=c' would be refused"),
        ({"labels": ("a=1", "a=2")}, "one is there twice"),
        ({"labels": tuple(f"k{n}" for n in range(65))}, "more than 64"),
        ({"renamed": ("A=B",)}, "for an update only"),
        ({"renamed": ("A",), "update": True}, "renamed step 'A' is no pair"),
        ({"image": ""}, "package '' is no setup.py, .tar.gz or .whl, .*or an image"),
        ({"image": "", "package": "dist/"}, "package 'dist/' is no setup.py"),
    ],
)
def test_what_dataflow_would_refuse_is_refused_here(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(CONFIG, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"project": "example.com:my-project"},
        {"region": "northamerica-northeast2"},
        {"job_name": "a"},
        {"temp_location": "gs://my_bucket.example.com/"},
        {"subnetwork": "https://host/v1/projects/other/regions/europe-west1/subnetworks/sub"},
        {"workers": 8, "max_workers": 8},
        {"workers": 8},
        {"labels": ("größe=klein", "a-b_c=1_3kg", "bare")},
        {"labels": tuple(f"k{n}" for n in range(64))},
        {"image": "", "package": "adtally-0.1.0-py3-none-any.whl"},
    ],
)
def test_what_dataflow_takes_is_taken(given: dict[str, Any]) -> None:
    assert validated(replace(CONFIG, **given)) == []


# From the command line.


def test_the_command_line_has_the_same_defaults() -> None:
    config = requested("--dataflow-image", "registry/adtally:1").dataflow
    assert config == replace(CONFIG, dry_run="dry")


def test_every_option_of_the_command_line_arrives() -> None:
    request = requested(
        *("--dataflow-job-name", "clicks", "--dataflow-staging-location", "gs://my-bucket/s"),
        *("--dataflow-service-account", "w@p.iam.gserviceaccount.com", "--dataflow-network", "n"),
        *("--dataflow-subnetwork", "regions/europe-west1/subnetworks/s"),
        *("--dataflow-no-public-ips", "--dataflow-machine-type", "n2-standard-4"),
        *("--dataflow-workers", "2", "--dataflow-max-workers", "8"),
        *("--dataflow-autoscaling", "NONE", "--dataflow-label", "a=b", "--dataflow-label", "c"),
        *("--dataflow-image", "i", "--dataflow-package", "p.whl", "--dataflow-update"),
        *("--dataflow-renamed", "A=B", "--dataflow-template-location", "gs://my-bucket/t.json"),
    )
    assert request.dataflow == DataflowConfig(
        project="my-project",
        region="europe-west1",
        temp_location="gs://my-bucket/tmp",
        job_name="clicks",
        staging_location="gs://my-bucket/s",
        service_account="w@p.iam.gserviceaccount.com",
        network="n",
        subnetwork="regions/europe-west1/subnetworks/s",
        public_ips=False,
        machine_type="n2-standard-4",
        workers=2,
        max_workers=8,
        autoscaling="NONE",
        labels=("a=b", "c"),
        image="i",
        package="p.whl",
        update=True,
        renamed=("A=B",),
        template_location="gs://my-bucket/t.json",
        dry_run="dry",
    )


def test_workers_install_the_checkout_where_nothing_else_is_said() -> None:
    assert requested().dataflow.package == str(ROOT / "setup.py") == checkout_setup()
    assert f"--setup_file={ROOT / 'setup.py'}" in requested().arguments


def test_options_of_beam_are_handed_on_after_ours() -> None:
    beam = ("--experiments=one,two", "--dataflow_service_options=graph_validate_only")
    arguments = requested(beam=beam).arguments
    assert arguments[-2:] == beam
    options = PipelineOptions(list(arguments))
    experiments = options.view_as(DebugOptions).experiments
    assert experiments == ["disable_logging_submission_environment", "one", "two"]
    assert options.view_as(GoogleCloudOptions).dataflow_service_options == ["graph_validate_only"]


@pytest.mark.parametrize(
    ("beam", "ours"),
    [
        ("--job_name=other", "--dataflow-job-name"),
        ("--project=other-project", "--dataflow-project"),
        ("--update", "--dataflow-update"),  # else nobody would look for the job, but Beam for ever
        ("--template_location=gs://b/t", "--dataflow-template-location"),
        ("--setup_file=setup.py", "--dataflow-package"),
        ("--labels=A=b", "--dataflow-label"),
    ],
)
def test_what_beam_would_not_check_is_refused(beam: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"{beam.partition('=')[0]} is Beam's.*give {ours}"):
        requested(beam=(beam,))


def test_every_name_of_beam_that_is_refused_is_one_and_has_ours() -> None:
    known = {name for option in stream.params for name in option.opts}
    assert {f"--{name}" for name in OURS.values()} <= known
    values = {"autoscaling_algorithm": "=NONE", "transform_name_mapping": "={}"}
    values |= {"update": "", "no_use_public_ips": ""}
    arguments = [f"--{name}{values.get(name, '=1')}" for name in OURS]
    assert unknown_arguments([*arguments, "--mistake=1"]) == ["--mistake=1"]


def test_what_is_missing_is_named() -> None:
    base = ["--source", "kinesis://events", "--output", "out", "--runner", "DataflowRunner"]
    given = stream.make_context("stream", [*base, "--dataflow-region", "europe-west1"]).params
    with pytest.raises(ConfigError, match="needs --dataflow-project, --dataflow-temp-location too"):
        stream_request(given, (), None)


@pytest.mark.parametrize(
    "option",
    [
        ("--dataflow-update",),
        ("--dataflow-dry-run", "dry"),
        ("--dataflow-template-location", "gs://b/t"),
    ],
)
def test_what_only_dataflow_does_is_refused_elsewhere(option: tuple[str, ...]) -> None:
    base = ["--source", "kinesis://events", "--output", "out", "--runner", "PrismRunner"]
    given = stream.make_context("stream", [*base, *option]).params
    with pytest.raises(ConfigError, match=f"{option[0]} is of no use to --runner PrismRunner"):
        stream_request(given, (), None)


def test_a_mistake_is_told_as_one_of_the_command_line() -> None:
    with pytest.raises(ConfigError, match="label 'A=b' would be refused"):
        requested("--dataflow-label", "A=b")


def test_an_update_goes_on_and_does_not_begin_where_the_output_ends() -> None:
    assert requested().resume
    assert not requested("--dataflow-update").resume


@pytest.mark.parametrize("start", ["LATEST", "2026-03-01"])
def test_an_update_begins_nowhere_else(start: str) -> None:
    with pytest.raises(ConfigError, match="--dataflow-update goes on where the running one is"):
        requested("--dataflow-update", "--start", start)
    assert requested("--dataflow-update", "--start", "TRIM_HORIZON").dataflow.update


def test_an_update_keeps_the_groups_of_its_windows(tmp_path: Path) -> None:
    output = ("--output", str(tmp_path))
    write_manifest(str(tmp_path), {"stream_shards": 8})
    assert requested(*output, "--dataflow-update").settings.shards == 8
    with pytest.raises(ConfigError, match=r"--shards 4 does not fit the running job.*cut into 8"):
        requested(*output, "--dataflow-update", "--shards", "4")
    assert requested(*output, "--shards", "4").settings.shards == 4


# What only this machine has.


def test_an_output_on_this_machine_is_refused() -> None:
    arguments = ["--source", "kinesis://events", "--output", "out", *NEEDED]
    given = stream.make_context("stream", arguments).params
    with pytest.raises(ConfigError, match=r"--output out is on this machine.*give a gs://"):
        stream_request(given, (), None)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--alerts", "alerts.jsonl"), "--alerts"),
        (("--alerts", "alerts/"), "--alerts"),
    ],
)
def test_files_of_this_machine_are_refused(arguments: tuple[str, ...], option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} .*is on this machine"):
        requested(*arguments)


def test_a_key_of_pseudonyms_on_this_machine_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    with pytest.raises(ConfigError, match=r"--pii-key-file .*is on this machine"):
        requested("--pii", "hash", "--pii-key-file", str(key))


@pytest.mark.parametrize("name", ["api_key_file", "password_file", "ca_file"])
def test_files_of_elasticsearch_on_this_machine_are_refused(name: str) -> None:
    elastic = ElasticsearchConfig(urls=("http://host:9200",), **{name: "/secret"})
    option = f"--elasticsearch-{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{option} /secret is on this machine"):
        requested(elastic=elastic)


def test_a_ca_may_be_in_the_image() -> None:
    elastic = ElasticsearchConfig(urls=("http://host:9200",), ca_file="/etc/ca.pem")
    assert requested("--dataflow-image", "i", elastic=elastic).elasticsearch == elastic


@pytest.mark.parametrize("variable", [API_KEY_ENV, PASSWORD_ENV, USERNAME_ENV])
def test_a_secret_of_this_machines_environment_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "canary")
    with pytest.raises(ConfigError) as raised:
        requested(elastic=ElasticsearchConfig(urls=("http://host:9200",)))
    assert f"{variable} is set on this machine" in str(raised.value)
    assert "canary" not in str(raised.value)
    elastic = ElasticsearchConfig(urls=("http://host:9200",), api_key_file="gs://my-bucket/key")
    assert requested(elastic=elastic).elasticsearch == elastic


def test_renamed_steps_are_told_as_beam_reads_them() -> None:
    config = replace(CONFIG, update=True, renamed=("A=B", "C/D=E=F"))
    (argument,) = [one for one in config.arguments() if one.startswith("--transform_name_mapping")]
    assert json.loads(argument.partition("=")[2]) == {"A": "B", "C/D": "E=F"}
