"""The local stack over several processes: up, again, after a kill, down."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import psutil
import pytest
from click.testing import CliRunner

from adtally.io.pubsub_client import PubSub, PubSubConfig, connect
from adtally.pipelines.cli import cli
from adtally.runners.local.kinesis_server import aws_client
from adtally.runners.local.service import MissingSystemPart, ServiceFailed, free_port
from adtally.runners.local.stack import Stack
from tests import streams

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

SOME = ("kinesis", "s3")


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Two servers that are up, on free ports."""
    made = Stack(tmp_path / "stack")
    try:
        made.up(SOME, {name: free_port() for name in SOME})
        yield made
    except MissingSystemPart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    finally:
        made.down()


def test_up_is_safe_to_repeat_and_mends_what_ended(stack: Stack) -> None:
    before = stack.state()
    assert [member.state for member in before.members] == ["up", "up"]
    assert stack.up(SOME).members == before.members

    kinesis = before.members[0]
    os.killpg(kinesis.pid, signal.SIGKILL)
    streams.until(lambda: kinesis.state == "ended", "the kill is seen")
    after = stack.up(SOME)
    assert after.ports == before.ports
    assert before.members[1] in after.members
    assert kinesis not in after.members
    assert [member.state for member in after.members] == ["up", "up"]


def test_what_was_put_is_there_after_down_and_up(stack: Stack) -> None:
    ports = stack.state().ports
    client = streams.create_stream(f"http://127.0.0.1:{ports['kinesis']}", "kept", 1)
    records = [{"Data": b"%d" % number, "PartitionKey": "k"} for number in range(500)]
    client.put_records(StreamName="kept", Records=records)
    ended = stack.down()
    assert {member.server for member in ended} == set(SOME)
    assert not any(psutil.pid_exists(member.pid) for member in ended)
    assert stack.down() == []
    stack.up(("kinesis",))
    (shard,) = client.list_shards(StreamName="kept")["Shards"]
    place = client.get_shard_iterator(
        StreamName="kept", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )
    found = client.get_records(ShardIterator=place["ShardIterator"])["Records"]
    assert [record["Data"] for record in found] == [record["Data"] for record in records]


def test_s3_keeps_objects(stack: Stack) -> None:
    client = aws_client("s3", f"http://127.0.0.1:{stack.state().ports['s3']}")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="k", Body=b"1")
    assert client.get_object(Bucket="bucket", Key="k")["Body"].read() == b"1"


def test_a_process_id_of_somebody_else_is_left_alone(stack: Stack) -> None:
    state = stack.state()
    other = state.members[0]
    mine = type(other)(other.server, other.name, os.getpid(), 1.0, other.port, other.log)
    (stack.folder / "stack.json").write_bytes(
        msgspec.json.encode({"members": [mine], "ports": state.ports})
    )
    assert mine.state == "ended"
    assert stack.down() == []
    (stack.folder / "stack.json").write_bytes(msgspec.json.encode(state))


def test_a_taken_port_is_an_error_only_if_it_was_asked_for(stack: Stack, tmp_path: Path) -> None:
    taken = stack.state().ports["s3"]
    second = Stack(tmp_path / "second")
    with pytest.raises(ServiceFailed, match="end what listens there"):
        second.up(("s3",), {"s3": taken})
    assert second.state().members == []


def test_the_command_line(tmp_path: Path, stack: Stack) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["local", *arguments, "--folder", str(stack.folder)])
        return done.exit_code, done.output

    code, told = run("up", "--only", "kinesis,s3", "--stream", "clicks:3", "--stream", "clicks")
    assert code == 0, told
    url = f"http://127.0.0.1:{stack.state().ports['kinesis']}"
    assert f"--source kinesis://clicks --kinesis-region us-east-1 --kinesis-endpoint {url}" in told
    assert len(aws_client("kinesis", url).list_shards(StreamName="clicks")["Shards"]) == 3
    assert run("status")[0] == 0
    assert run("down")[0] == 0
    assert run("status")[0] == 1
    assert run("up", "--only", "kinesis,redis")[0] == 2
    code, told = run("up", "--only", "s3", "--topic", "clicks")
    assert code == 2
    assert "--topic needs pubsub, which was not started" in told
    assert run("up", "--port", "kinesis=no")[0] == 2


def test_pubsub_is_one_of_the_servers(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        folder = tmp_path / "stack"
        done = CliRunner().invoke(cli, ["local", *arguments, "--folder", str(folder)])
        return done.exit_code, done.output

    port = free_port()
    given = ("--only", "pubsub", "--port", f"pubsub={port}", "--topic", "clicks")
    code, told = run("up", *given)
    if "needs Go" in told and not os.environ.get("CI"):
        pytest.skip(told)
    try:
        assert code == 0, told
        assert "--source pubsub://projects/local-project/subscriptions/clicks" in told
        config = PubSubConfig(
            "projects/local-project/subscriptions/clicks", "", f"127.0.0.1:{port}"
        )
        with connect(config) as client:
            assert PubSub(config, client).details().topic == "projects/local-project/topics/clicks"
        assert run("up", *given)[0] == 0, "safe to repeat"
    finally:
        assert run("down")[0] == 0
