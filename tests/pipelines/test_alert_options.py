"""``--alerts``: what it may be, what it makes of the rules, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.io.alerts import FileAlerts, FolderAlerts, KinesisAlerts
from adtally.io.kinesis_client import KinesisConfig
from adtally.io.manifest import read_manifest
from adtally.pipelines.alerts import parse_target
from adtally.pipelines.cli import cli
from adtally.pipelines.job import ConfigError
from adtally.pipelines.stream import StreamRequest, prepare
from adtally.pipelines.stream_cli import stream, stream_request
from adtally.transforms.alerts import AlertSpec
from adtally.transforms.rules.quotas import Quotas

ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream"


@pytest.fixture
def prism(tmp_path: Path) -> str:
    """A file in the place of Prism, which nothing here starts."""
    path = tmp_path / "prism"
    path.touch()
    return str(path)


def requested(prism: str, *arguments: str) -> StreamRequest:
    base = ("--source", "kinesis://own", "--output", "out", "--prism", prism)
    given = stream.make_context("stream", [*base, *arguments]).params
    request: StreamRequest = stream_request(given, (), None)
    return request


def test_without_the_option_nothing_is_told(prism: str) -> None:
    request = requested(prism)
    assert (request.alerts, request.alert_spec) == (None, AlertSpec())


def test_what_is_said_is_in_the_request_and_in_the_job(prism: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[quotas]\nclicks = 5\n[advertisers.acme]\nquotas = { impressions = 7 }\n")
    request = requested(
        prism,
        *("--alerts", "kinesis://told", "--kinesis-region", "eu-central-1"),
        *("--kinesis-endpoint", "http://localhost:1", "--output", str(tmp_path / "out")),
        *("--alerts-per-window", "7", "--rate-limit-for", "5m", "--rules", str(rules)),
    )
    config = KinesisConfig("told", "eu-central-1", "http://localhost:1")
    assert request.alerts == KinesisAlerts(config)
    quotas = Quotas({"clicks": 5}, {"acme": {"impressions": 7}})
    assert request.alert_spec == AlertSpec(7, 300_000, quotas)
    job = prepare(request)
    assert (job.alerts, job.alert_spec) == (request.alerts, request.alert_spec)


def test_a_target_is_a_stream_a_file_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_target(f"kinesis://{ARN}/told", "", "") == KinesisAlerts(
        KinesisConfig(f"{ARN}/told")
    )
    assert parse_target("a/told.jsonl", "", "") == FileAlerts(f"{tmp_path}/a/told.jsonl")
    assert parse_target("a/told", "", "") == FolderAlerts(f"{tmp_path}/a/told")
    assert parse_target("s3://bucket/told", "", "") == FolderAlerts("s3://bucket/told")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("kinesis://", "kinesis://STREAM"),
        ("pubsub://topic", "write pubsub://projects/PROJECT/topics/NAME"),
        ("kafka://topic", "is not known; write kinesis://STREAM"),
        ("s3://bucket/told.jsonl", "cannot be appended to; give a folder"),
    ],
)
def test_another_target_is_refused_with_what_to_write(target: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_target(target, "", "")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("kinesis://events", "kinesis://events"),
        (f"kinesis://{ARN}/told", "kinesis://told"),
        ("kinesis://told", f"kinesis://{ARN}/told"),
        (f"kinesis://{ARN}/told", f"kinesis://{ARN}/told"),
    ],
)
def test_alerts_must_not_come_back_as_events(prism: str, source: str, target: str) -> None:
    with pytest.raises(ConfigError, match="would come back as events"):
        requested(prism, "--source", source, "--alerts", target)


def test_a_stream_of_the_same_name_elsewhere_is_another(prism: str) -> None:
    other = ARN.replace("eu-central-1", "eu-west-1")
    source, target = f"kinesis://{ARN}/told", f"kinesis://{other}/told"
    assert requested(prism, "--source", source, "--alerts", target).alerts is not None


def test_a_bounded_read_has_no_alerts(prism: str) -> None:
    with pytest.raises(ConfigError, match=r"--alerts is for a live stream.*Leave one"):
        requested(prism, "--stop-at", "LATEST", "--alerts", "kinesis://told")


def test_a_backfill_has_no_alerts(tmp_path: Path) -> None:
    given = ["backfill", "--input", str(tmp_path), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*given, "--alerts", "kinesis://told"])
    assert result.exit_code == 2
    assert "--alerts" in result.output


def test_a_file_of_this_machine_is_none_for_workers_elsewhere(prism: str) -> None:
    flink = ("--runner", "FlinkRunner", "--flink-job-endpoint", "localhost:1")
    assert requested(prism, *flink, "--alerts", "told.jsonl").alerts is not None
    with pytest.raises(ConfigError, match="workers run beside the TaskManagers"):
        requested(prism, *flink, "--flink-environment", "localhost:50000", "--alerts", "told.jsonl")


def test_other_quotas_are_no_other_rules(prism: str, tmp_path: Path) -> None:
    """A quota may change from run to run, without --rules being given again."""
    rules, output = tmp_path / "rules.toml", tmp_path / "out"
    rules.write_text("[quotas]\nclicks = 5\n")
    prepare(requested(prism, "--output", str(output), "--rules", str(rules)))
    before = (read_manifest(str(output)) or {})["rules"]
    rules.write_text("[quotas]\nclicks = 6\n[advertisers.acme]\nquotas = { clicks = 9 }\n")
    again = requested(prism, "--output", str(output), "--alerts", "kinesis://told")
    assert again.alert_spec.quotas == Quotas({"clicks": 6}, {"acme": {"clicks": 9}})
    prepare(again)
    assert (read_manifest(str(output)) or {})["rules"] == before


def test_a_stream_that_is_not_there_ends_before_anything_is_read(
    prism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    given = ["stream", "--source", "kinesis://events", "--output", str(tmp_path / "out")]
    target = ["--alerts", str(tmp_path / "file" / "told"), "--prism", prism]
    result = CliRunner().invoke(cli, [*given, *target])
    assert result.exit_code == 2
    assert "alerts cannot be written below" in result.output
