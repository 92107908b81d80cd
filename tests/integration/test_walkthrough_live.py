"""docs/walkthrough.md, "Go live": its commands as they stand, but for the addresses of servers."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import KinesisServer
from tests import streams
from tests.dashboards import running
from tests.pipelines.test_walkthrough import DOCS, LIVE, blocks

pytestmark = pytest.mark.xdist_group("live")
PREFIX = "walkthrough"
CLICKS = {"bike-barn": 443, "shoes-and-more": 758, "tea-corner": 109}


@pytest.mark.slow
def test_going_live(
    tmp_path: Path,
    kinesis_server: KinesisServer,
    elasticsearch_node: ElasticsearchNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, _, live = (DOCS / "walkthrough.md").read_text(encoding="utf-8").partition(LIVE)
    shutil.copytree(DOCS / "sample", tmp_path / "docs" / "sample")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADTALLY_ELASTICSEARCH_INDEX_PREFIX", PREFIX)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)

    def typed(command: str) -> list[str]:
        for told, here in {
            "kinesis://clicks": f"kinesis://{PREFIX}",
            "http://127.0.0.1:4567": kinesis_server.url,
            "http://127.0.0.1:9200": elasticsearch_node.url,
        }.items():
            command = command.replace(told, here)
        return shlex.split(command)[1:]

    def run(command: str) -> str:
        done = CliRunner().invoke(cli, typed(command))
        assert done.exit_code == 0, (command, done.output)
        return done.output

    for command, _ in blocks(before)[1:3]:  # convert, inspect
        run(command)
    up, _, stream, _, feed, status, pull, look = [command for command, _ in blocks(live)]
    assert up == "adtally local up --only kinesis,elasticsearch --stream clicks"
    streams.create_stream(kinesis_server.url, PREFIX, 2)
    config = ElasticsearchConfig((elasticsearch_node.url,), index_prefix=PREFIX)

    def counted() -> dict[str, int]:
        with connect(config) as client:
            if not client.indices.exists(index=f"{PREFIX}-summaries-2026.03"):
                return {}
            client.indices.refresh(index=f"{PREFIX}-*")
            found = client.search(
                index=config.index_pattern("summaries"),
                size=0,
                query={"term": {"window_seconds": 60}},
                aggs={"by": {"terms": {"field": "advertiser_id"},
                             "aggs": {"clicks": {"sum": {"field": "clicks"}}}}},
            )  # fmt: skip
        buckets = found["aggregations"]["by"]["buckets"]
        return {one["key"]: int(one["clicks"]["value"]) for one in buckets}

    with streams.running(*typed(stream), log=tmp_path / "stream.log"):
        run(feed)
        streams.until(lambda: counted() == CLICKS, "the shops' clicks are counted")
        assert "2026-03-02T12:59:48" in run(status)
        run(pull)
        with running(*typed(look)[1:]) as url, urllib.request.urlopen(url) as answer:
            page = answer.read().decode()
        assert all(shop in page and f"{clicks:,}" in page for shop, clicks in CLICKS.items())
    for shop, clicks in CLICKS.items():
        database = sqlite3.connect(tmp_path / "walk" / "tenants" / f"{shop}.db")
        query = "SELECT sum(clicks) FROM summaries WHERE window_seconds = 60"
        assert database.execute(query).fetchone() == (clicks,)
