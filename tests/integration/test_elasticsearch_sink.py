"""The sink against a real node: down, killed, full, refusing, guarded."""

from __future__ import annotations

import contextlib
import http.server
import pickle
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from adtally.io import schema
from adtally.io.elasticsearch import (
    KINDS,
    ElasticsearchConfig,
    ElasticsearchConfigError,
    TemplatesMissing,
    check_templates,
    connect,
    delete_stale,
    install_templates,
)
from adtally.io.elasticsearch_bulk import AccessDenied, BulkWriter, ElasticsearchUnavailable
from adtally.io.elasticsearch_sink import WriteToElasticsearch, documents
from adtally.runners.direct import direct_runner
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests.nodes import started_node

pytestmark = pytest.mark.elasticsearch
MINUTE_MS = 60_000
START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
SECRET = "correct-horse-battery"


def summaries(rows: int, *, version: int = 1, clicks: int = 1, generation: int = 0) -> pa.Table:
    """Rows of one advertiser each, in consecutive minutes."""
    made = []
    for row in range(rows):
        start = START_MS + row * MINUTE_MS
        made.append(
            {
                "window_start": start,
                "window_end": start + MINUTE_MS,
                "window_seconds": 60,
                "advertiser_id": f"adv-{row % 7}",
                "currency": "EUR",
                **dict.fromkeys(schema.MEASURES, 0),
                "clicks": clicks,
                "unique_users": 1,
                "unique_user_hashes": [row],
                "first_event_at": start,
                "last_event_at": start,
                "final_after": start + 61 * MINUTE_MS,
                "generation": generation,
                "version": (generation << 40) + version,
            }
        )
    return pa.Table.from_pylist(made, schema=schema.summary_schema())


def config_for(url: str, **settings: Any) -> ElasticsearchConfig:
    settings.setdefault("retry_seconds", 60.0)
    return ElasticsearchConfig(urls=(url,), index_prefix=f"t{uuid.uuid4().hex[:10]}", **settings)


@pytest.fixture
def config(elasticsearch_node: ElasticsearchNode) -> ElasticsearchConfig:
    """A set-up corner of the shared node."""
    made = config_for(elasticsearch_node.url)
    with contextlib.closing(connect(made)) as client:
        install_templates(client, made)
    return made


def stored(config: ElasticsearchConfig, kind: str = "summaries") -> list[dict[str, Any]]:
    """All documents of a kind."""
    with contextlib.closing(connect(config)) as client:
        client.indices.refresh(index=config.index_pattern(kind))
        found = client.search(index=config.index_pattern(kind), size=10_000)
    return [hit["_source"] for hit in found["hits"]["hits"]]


def write(config: ElasticsearchConfig, table: pa.Table, expected_letters: list[str]) -> None:
    """Through a real pipeline."""
    options = PipelineOptions([])
    with beam.Pipeline(runner=direct_runner(options), options=options) as pipeline:
        letters = pipeline | beam.Create([table]) | WriteToElasticsearch(config, "summaries")
        types = letters | beam.Map(lambda letter: letter.error_type)
        assert_that(types, equal_to(expected_letters))


def writer(config: ElasticsearchConfig) -> BulkWriter:
    return BulkWriter(connect(config), config)


def made(config: ElasticsearchConfig, table: pa.Table) -> list[Any]:
    return documents(table, "summaries", config, START_MS)


def test_twice_the_same_and_columns_come_back(config: ElasticsearchConfig) -> None:
    table = summaries(50)
    write(config, table, [])
    write(config, table, [])
    found = stored(config)
    assert len(found) == 50
    one = min(found, key=lambda document: document["window_start"])
    expected = {*table.column_names, "updated_at"}
    assert set(one) == expected
    assert one["window_start"] == "2026-03-01T00:00:00.000Z"
    assert one["unique_user_hashes"] == [0]


def test_an_older_state_never_undoes_a_newer(config: ElasticsearchConfig) -> None:
    bulk = writer(config)
    assert bulk.write(made(config, summaries(5, version=7, clicks=7))) == []
    assert bulk.write(made(config, summaries(5, version=3, clicks=3))) == []
    assert bulk.counts.superseded == 5
    assert {document["clicks"] for document in stored(config)} == {7}


def test_a_refused_document_is_a_dead_letter_and_its_neighbours_are_written(
    config: ElasticsearchConfig,
) -> None:
    table = summaries(10).append_column("surprise", pa.array([None] * 9 + ["x"]))
    good = made(config, table.drop_columns(["surprise"]))[:9]
    bad = made(config, table)[9:]
    refused = writer(config).write(good + bad)
    assert [item.error_type for item in refused] == ["strict_dynamic_mapping_exception"]
    assert "surprise" in refused[0].reason
    assert len(stored(config)) == 9


def test_mapping_conflicts_reach_the_dead_letters_of_the_pipeline(
    config: ElasticsearchConfig,
) -> None:
    table = summaries(3)
    names = table.column_names
    broken = table.set_column(
        names.index("clicks"), "clicks", pa.array(["1", "two", "3"], pa.string())
    )
    write(config, broken, ["document_parsing_exception"])
    assert len(stored(config)) == 2


def test_without_templates_nothing_is_written(elasticsearch_node: ElasticsearchNode) -> None:
    config = config_for(elasticsearch_node.url)
    with (
        contextlib.closing(connect(config)) as client,
        pytest.raises(TemplatesMissing, match="adtally elasticsearch setup"),
    ):
        check_templates(client, config)
    with pytest.raises(Exception, match="adtally elasticsearch setup"):
        write(config, summaries(1), [])


def test_setup_can_be_repeated(config: ElasticsearchConfig) -> None:
    with contextlib.closing(connect(config)) as client:
        assert len(install_templates(client, config)) == len(KINDS)
        check_templates(client, config)


def test_down_at_start_and_killed_in_mid_write() -> None:
    node = started_node()
    try:
        config = config_for(node.url, batch_bytes=20_000)
        with contextlib.closing(connect(config)) as client:
            install_templates(client, config)
        node.kill()
        bulk = writer(config)
        seen: list[int] = []
        attempt = bulk._attempt

        def watched(batch: Any, refused: Any) -> Any:
            """Bring the node up after the first try, and kill and restart it after the tenth."""
            result = attempt(batch, refused)
            seen.append(len(batch))
            if len(seen) == 1:
                node.start()
            if len(seen) == 10:
                node.kill()
            if len(seen) == 11:
                node.start()
            return result

        bulk._attempt = watched  # type: ignore[method-assign]
        table = summaries(2_000)
        assert bulk.write(made(config, table)) == []
        assert bulk.counts.retries >= 2
        found = stored(config)
        assert len(found) == 2_000
        assert sum(document["clicks"] for document in found) == 2_000
    finally:
        node.stop()


def test_full_of_429s() -> None:
    """The node itself refuses: its indexing pressure is limited to what one bulk takes."""
    node = started_node({"indexing_pressure.memory.limit": "60kb"})
    try:
        config = config_for(node.url, batch_bytes=30_000, retry_seconds=120.0)
        with contextlib.closing(connect(config)) as client:
            install_templates(client, config)
        table = summaries(3_000)
        counts = []

        def share(part: int) -> None:
            bulk = writer(config)
            assert bulk.write(made(config, table.slice(part * 500, 500))) == []
            counts.append(bulk.counts)

        threads = [threading.Thread(target=share, args=(part,)) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(count.retries for count in counts) > 0
        assert sum(count.written for count in counts) == 3_000
        assert len(stored(config)) == 3_000
    finally:
        node.stop()


def test_a_node_that_stays_away_fails_the_write() -> None:
    config = config_for("http://127.0.0.1:9", retry_seconds=0.5)
    with pytest.raises(ElasticsearchUnavailable, match="run again"):
        writer(config).write(made(config, summaries(1)))


@contextlib.contextmanager
def guarded(node: ElasticsearchNode, answer: Callable[[Any], int | None]) -> Iterator[str]:
    """A proxy in front of the node, which answers with a status of its own where told to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            status = answer(self)
            if status is not None:
                self.reply(status, b'{"error":{"type":"security_exception","reason":"no"}}')
                return
            request = urllib.request.Request(
                node.url + self.path, data=body or None, method=self.command
            )
            for name in ("content-type", "accept"):
                if name in self.headers:
                    request.add_header(name, self.headers[name])
            try:
                with urllib.request.urlopen(request) as response:
                    self.reply(response.status, response.read())
            except urllib.error.HTTPError as error:
                self.reply(error.code, error.read())

        do_GET = do_POST = do_PUT = handle_one

        def reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("x-elastic-product", "Elasticsearch")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True  # clients keep their connections open
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_wrong_credentials_fail_at_once_and_secrets_stay_secret(
    elasticsearch_node: ElasticsearchNode,
    config: ElasticsearchConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ADTALLY_ELASTICSEARCH_PASSWORD", SECRET)
    with guarded(elasticsearch_node, lambda request: 401) as url:
        denied = ElasticsearchConfig((url,), config.index_prefix, username="ann", retry_seconds=5.0)
        with pytest.raises(AccessDenied) as caught:
            writer(denied).write(made(denied, summaries(1)))
    texts = [repr(denied), str(denied), str(caught.value), caplog.text, str(pickle.dumps(denied))]
    texts.append(str(pickle.dumps(WriteToElasticsearch(denied, "summaries"))))
    assert not any(SECRET in text for text in texts)


def test_the_credentials_are_sent(
    elasticsearch_node: ElasticsearchNode,
    config: ElasticsearchConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADTALLY_ELASTICSEARCH_API_KEY", SECRET)

    def check(request: Any) -> int | None:
        return None if request.headers.get("authorization") == f"ApiKey {SECRET}" else 403

    with guarded(elasticsearch_node, check) as url:
        allowed = ElasticsearchConfig((url,), config.index_prefix, retry_seconds=5.0)
        assert writer(allowed).write(made(allowed, summaries(2))) == []
    assert len(stored(config)) == 2


def test_a_request_that_is_too_large_is_split(
    elasticsearch_node: ElasticsearchNode, config: ElasticsearchConfig
) -> None:
    def check(request: Any) -> int | None:
        return 413 if int(request.headers["content-length"]) > 4_000 else None

    with guarded(elasticsearch_node, check) as url:
        small = ElasticsearchConfig((url,), config.index_prefix, retry_seconds=5.0)
        assert writer(small).write(made(small, summaries(40))) == []
    assert len(stored(config)) == 40


def test_only_the_failed_items_are_sent_again(
    elasticsearch_node: ElasticsearchNode, config: ElasticsearchConfig
) -> None:
    failures = iter([503, 503, None, None])
    with guarded(elasticsearch_node, lambda request: next(failures)) as url:
        flaky = ElasticsearchConfig((url,), config.index_prefix, retry_seconds=60)
        bulk = BulkWriter(connect(flaky), flaky, sleep=lambda seconds: None)
        assert bulk.write(made(flaky, summaries(4))) == []
    assert bulk.counts.retries == 2
    assert len(stored(config)) == 4


def test_outdated_documents_go_and_newer_ones_stay(config: ElasticsearchConfig) -> None:
    bulk = writer(config)
    bulk.write(made(config, summaries(10)))
    bulk.write(made(config, summaries(4, generation=2)))
    with contextlib.closing(connect(config)) as client:
        removed = delete_stale(
            client,
            config,
            window_from_ms=START_MS,
            window_to_ms=START_MS + 8 * MINUTE_MS,
            generation=2,
            window_seconds=[60],
        )
    assert removed == 4
    left = sorted((document["window_start"], document["generation"]) for document in stored(config))
    assert [generation for _, generation in left] == [2, 2, 2, 2, 0, 0]
    # What comes late from the old generation cannot return under a deleted document's id.
    late = writer(config)
    late.write(made(config, summaries(6).slice(4, 2)))
    assert late.counts.superseded == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"urls": ()}, "no Elasticsearch URL"),
        ({"urls": ("localhost:9200",)}, "https://HOST:9200"),
        ({"urls": (f"http://ann:{SECRET}@host:9200",)}, "user or password"),
        ({"urls": ("http://host",), "index_prefix": "AdTally"}, "capitals"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ElasticsearchConfigError, match=words) as caught:
        ElasticsearchConfig(**settings)
    assert SECRET not in str(caught.value)


HOSTILE = (
    *("../../x", "/a", "a,b", "..", "_id", "*", '"', "\\", "%2e%2e%2f", "a b", "é" * 128, "{}"),
    *("\u202ea", "a\u2028b", "'; x", "?routing=b", "#", "+", "null", "x" * 256),
)
"""Ids within the limits that would do harm in an address, a routing value or a line of bulk."""


def test_hostile_ids_are_written_found_and_deleted_as_they_are(config: ElasticsearchConfig) -> None:
    table = summaries(len(HOSTILE))
    ids = pa.array(HOSTILE, pa.string())
    table = table.set_column(table.schema.get_field_index("advertiser_id"), "advertiser_id", ids)
    table = table.append_column("campaign_id", ids)
    write(config, table, [])
    found = stored(config)
    assert {(one["advertiser_id"], one["campaign_id"]) for one in found} == {
        (text, text) for text in HOSTILE
    }
    with contextlib.closing(connect(config)) as client:
        index = config.index_pattern("summaries")
        for text in HOSTILE:
            hits = client.search(index=index, query={"term": {"advertiser_id": text}})
            assert [hit["_routing"] for hit in hits["hits"]["hits"]] == [text]
        removed = delete_stale(
            client,
            config,
            window_from_ms=START_MS,
            window_to_ms=START_MS + 60 * MINUTE_MS,
            generation=1,
            window_seconds=[60],
        )
    assert removed == len(HOSTILE)


def test_a_key_too_long_for_the_index_is_a_dead_letter_of_its_own(
    config: ElasticsearchConfig,
) -> None:
    """Limits keep such ids out; where they were raised, neighbours are still written."""
    table = summaries(3)
    ids = pa.array(["a", "x" * 40_000, "b"], pa.string())
    table = table.set_column(table.schema.get_field_index("advertiser_id"), "advertiser_id", ids)
    refused = writer(config).write(made(config, table))
    assert len(refused) == 1
    assert sorted(one["advertiser_id"] for one in stored(config)) == ["a", "b"]
