"""Config and secrets, identities and documents, what an answer means, and the local node."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import logging
import pickle
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given
from hypothesis import strategies as st

from adtally.io import elasticsearch as es
from adtally.io import elasticsearch_pages, schema
from adtally.io.elasticsearch_bulk import (
    BulkWriter,
    Document,
    ElasticsearchUnavailable,
    RequestRefused,
    batches,
)
from adtally.io.elasticsearch_sink import WriteToElasticsearch, document_id, documents
from adtally.runners.direct import direct_runner
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.service import ServiceFailed
from tests.nodes import started_node

SECRET = "correct-horse-battery"
URL = "http://127.0.0.1:9"
START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z


def summaries(rows: int, dimensions: tuple[str, ...] = (), **values: Any) -> pa.Table:
    """Rows of consecutive minutes."""
    made = []
    for row in range(rows):
        start = START_MS + row * 60_000
        one = dict.fromkeys(schema.MEASURES, 1) | dict.fromkeys(dimensions)
        one |= {"window_start": start, "window_end": start + 60_000, "window_seconds": 60}
        one |= {"advertiser_id": "adv", "currency": "EUR", "unique_users": 0}
        one |= {"unique_user_hashes": [row], "first_event_at": start, "last_event_at": start}
        one |= {"final_after": start, "generation": 0, "version": 1, **values}
        made.append(one)
    return pa.Table.from_pylist(made, schema=schema.summary_schema(dimensions))


def flags(rows: int) -> pa.Table:
    verdict = dict.fromkeys(("rule", "ivt_class", "subject_type", "subject"), "x")
    return pa.Table.from_pylist(
        [
            {
                "window_start": START_MS + row * 60_000,
                "window_end": START_MS + (row + 1) * 60_000,
                "window_seconds": 60,
                "advertiser_id": "adv",
                "flags": [{**verdict, "count": 9, "threshold": 5, "evidence": ["e1", "e2"]}],
                "ruleset_version": "1",
                "final_after": START_MS,
                "generation": 0,
                "version": 1,
            }
            for row in range(rows)
        ],
        schema=schema.FLAG_SCHEMA,
    )


# --- config and secrets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"https://ann:{SECRET}@host:9200",
        f"ann:{SECRET}@host:9200",
        f"http://ann:{SECRET}/x@host",
        f"http://ann:p@{SECRET}",
        f"http://host?api_key={SECRET}",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(es.ElasticsearchConfigError) as caught:
        es.ElasticsearchConfig((url,))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"urls": ()},
        {"urls": ("host:9200",)},
        {"urls": ("http://host:99999",)},
        {"index_prefix": "*"},
        {"index_prefix": "AdTally"},
        {"index_prefix": "-x"},
        {"batch_bytes": 0},
        {"request_timeout_seconds": 0},
        {"retry_seconds": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(es.ElasticsearchConfigError):
        es.ElasticsearchConfig(**{"urls": (URL,), **settings})


def authorization(config: es.ElasticsearchConfig) -> str | None:
    with contextlib.closing(es.connect(config)) as client:
        value: str | None = client._headers.get("authorization")
    return value


def test_secrets_come_from_the_environment_or_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = es.ElasticsearchConfig((URL,))
    assert authorization(config) is None
    monkeypatch.setenv(es.USERNAME_ENV, "ann")
    with pytest.raises(es.ElasticsearchConfigError, match="no password"):
        es.connect(config)
    monkeypatch.setenv(es.PASSWORD_ENV, SECRET)
    basic = authorization(config)
    assert basic is not None and basic.startswith("Basic ")
    monkeypatch.setenv(es.API_KEY_ENV, "encoded==")
    assert authorization(config) == "ApiKey encoded=="
    key = tmp_path / "key"
    key.write_text("id:key\n", encoding="utf-8")
    assert authorization(es.ElasticsearchConfig((URL,), api_key_file=str(key))) == "ApiKey aWQ6a2V5"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe" + SECRET.encode(), f"a\n{SECRET}".encode()])
def test_a_secret_file_that_is_none_is_refused_without_repeating_it(
    content: bytes, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(content)
    with pytest.raises(es.ElasticsearchConfigError, match=r"empty|read|copy it again") as caught:
        es.connect(es.ElasticsearchConfig((URL,), api_key_file=str(key)))
    assert SECRET not in str(caught.value)


def test_secrets_are_in_no_repr_pickle_log_or_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(es.API_KEY_ENV, SECRET)
    config = es.ElasticsearchConfig((URL,), retry_seconds=0)
    with (
        caplog.at_level(logging.DEBUG),
        contextlib.closing(es.connect(config)) as client,
        pytest.raises(ElasticsearchUnavailable) as caught,
    ):
        BulkWriter(client, config).write(documents(summaries(1), "summaries", config, 0))
    sink = WriteToElasticsearch(config, "summaries")
    seen = [repr(config), repr(sink), str(pickle.dumps((config, sink))), caplog.text]
    assert not [text for text in [*seen, str(caught.value)] if SECRET in text]


def test_a_missing_ca_file_is_named() -> None:
    with pytest.raises(es.ElasticsearchConfigError, match=r"/no/ca\.pem"):
        es.connect(es.ElasticsearchConfig(("https://host:9200",), ca_file="/no/ca.pem"))


# --- identities, documents, templates -------------------------------------------------------

IDENTITIES = st.fixed_dictionaries(
    {
        "advertiser_id": st.text(),
        "currency": st.sampled_from(["EUR", "USD", "XXX"]),
        "window_seconds": st.sampled_from([60, 3600]),
        "start": st.sampled_from([0, 60_000, START_MS]),
        "dimensions": st.dictionaries(
            st.sampled_from(schema.DIMENSIONS), st.none() | st.text(max_size=3)
        ),
    }
)


def id_of(identity: dict[str, Any], kind: str = "summaries") -> str:
    row = {**identity, **identity["dimensions"]}
    names = [name for name in schema.DIMENSIONS if name in identity["dimensions"]]
    return document_id(kind, row, names, identity["start"])


@given(IDENTITIES, IDENTITIES)
def test_ids_are_equal_exactly_where_identities_are(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert (id_of(one) == id_of(two)) == (one == two)


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_no_separator_in_a_value_makes_two_identities_one(a: str, b: str, c: str) -> None:
    base = {"currency": "EUR", "window_seconds": 60, "start": 0}

    def of(first: str, second: str) -> str:
        dims = {"campaign_id": first, "country": second}
        return id_of({**base, "advertiser_id": "x", "dimensions": dims})

    assert (of(a, b + c) == of(a + b, c)) == (b == "")


def test_ids_never_change() -> None:
    """Stored documents are found under these: another id would count everything twice."""
    identity = {"advertiser_id": "adv-1", "currency": "EUR", "window_seconds": 60}
    identity |= {"start": START_MS, "dimensions": {"campaign_id": None, "country": "DE"}}
    assert id_of(identity) == "e6ad73c98928c230a4c56744411f38f5"
    assert id_of(identity, "flags") == "f56fccec0aa783c27767dc0461188ddb"


@pytest.mark.parametrize("dimensions", [(), ("country", "campaign_id")])
def test_documents_say_where_they_go_and_which_state_they_are(dimensions: tuple[str, ...]) -> None:
    config = es.ElasticsearchConfig((URL,))
    table = summaries(2, dimensions, version=7)
    made = documents(table, "summaries", config, START_MS)
    assert made == documents(table.to_batches()[0], "summaries", config, START_MS)
    action = json.loads(made[0].action)["index"]
    assert action.pop("_id") == made[0].id
    assert action == {
        "_index": "adtally-summaries-2026.03",
        "routing": "adv",
        "version": 7,
        "version_type": "external_gte",
    }
    body = json.loads(made[1].body)
    assert body["window_start"] == "2026-03-01T00:01:00.000Z"
    assert body["updated_at"] == "2026-03-01T00:00:00.000Z"
    assert set(body) == {*table.column_names, "updated_at"}


def test_templates_know_every_field_and_refuse_others() -> None:
    config = es.ElasticsearchConfig((URL,))
    for kind, source in (
        ("summaries", schema.summary_schema(schema.DIMENSIONS)),
        ("flags", schema.FLAG_SCHEMA),
    ):
        mappings = es.index_template(config, kind)["template"]["mappings"]
        assert mappings["dynamic"] == "strict"
        added = {"updated_at", "pane_timing", "pane_index"}
        assert set(mappings["properties"]) == {*source.names, *added}
    assert mappings["properties"]["flags"]["type"] == "nested"
    assert mappings["properties"]["window_start"] == {"type": "date"}


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_batches_keep_order_and_size(sizes: list[int], limit: int) -> None:
    made = [Document("i", str(n), "r", 1, b"", b"x" * size) for n, size in enumerate(sizes)]
    cut = list(batches(made, limit))
    assert [document for batch in cut for document in batch] == made
    assert all(len(batch) == 1 or sum(d.size for d in batch) <= limit for batch in cut)


# --- what answers mean ----------------------------------------------------------------------


@contextlib.contextmanager
def in_front_of(url: str, statuses: list[int], product: bool = True) -> Iterator[tuple[str, Any]]:
    """A proxy that answers its first requests by itself, then passes on; gives URL and log."""
    seen: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path.partition("?")[0], len(body)))
            if statuses:
                self.reply(statuses.pop(0), b'{"error":{"type":"made_up","reason":"by a proxy"}}')
                return
            request = urllib.request.Request(url + self.path, body or None, method=self.command)
            for name in ("content-type", "accept"):
                if name in self.headers:
                    request.add_header(name, self.headers[name])
            try:
                with urllib.request.urlopen(request) as response:
                    self.reply(response.status, response.read())
            except urllib.error.HTTPError as error:
                self.reply(error.code, error.read())
                error.close()

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            if product:
                self.send_header("x-elastic-product", "Elasticsearch")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def writing(url: str, **settings: Any) -> Iterator[tuple[BulkWriter, list[Document]]]:
    config = es.ElasticsearchConfig((url,), **{"retry_seconds": 60.0, **settings})
    with contextlib.closing(es.connect(config)) as client:
        yield (
            BulkWriter(client, config, sleep=lambda _: None),
            documents(summaries(20), "summaries", config, 0),
        )


@pytest.mark.parametrize("status", [301, 404, 405, 406, 501])
def test_a_request_refused_whole_is_one_error_and_no_dead_letters(status: int) -> None:
    with in_front_of(URL, [status] * 99) as (url, seen), writing(url) as (bulk, made):
        with pytest.raises(RequestRefused, match="nothing can be written"):
            bulk.write(made)
        assert len(seen) == 1


def test_a_server_that_is_no_elasticsearch_is_said_so() -> None:
    with in_front_of(URL, [200] * 99, product=False) as (url, seen), writing(url) as (bulk, made):
        with pytest.raises(RequestRefused, match="X-Elastic-Product"):
            bulk.write(made)
        assert len(seen) == 1


def test_one_document_too_large_is_the_only_dead_letter_and_later_requests_are_smaller() -> None:
    with in_front_of(URL, [413] * 99) as (url, _), writing(url) as (bulk, made):
        refused = bulk.write(made[:1])
        assert [item.error_type for item in refused] == ["status_413"]
        assert bulk._batch_bytes == 5 << 20
        bulk.write(made[:4])
        assert bulk._batch_bytes <= sum(document.size for document in made[:4]) // 2


def test_a_cluster_that_is_away_is_one_warning_in_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with writing(URL, retry_seconds=1.0) as (bulk, made), caplog.at_level(logging.INFO):
        with pytest.raises(ElasticsearchUnavailable, match="Nothing is lost"):
            bulk.write(made)
        assert bulk.counts.retries > 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- with the real node ---------------------------------------------------------------------


@pytest.fixture
def config(elasticsearch_node: ElasticsearchNode) -> es.ElasticsearchConfig:
    """A corner of the shared node, set up."""
    made = es.ElasticsearchConfig(
        (elasticsearch_node.url,), f"u{uuid.uuid4().hex[:10]}", retry_seconds=60.0
    )
    with contextlib.closing(es.connect(made)) as client:
        assert not es.templates_installed(client, made)
        es.install_templates(client, made)
        assert es.templates_installed(client, made)
    return made


def found(config: es.ElasticsearchConfig, kind: str = "summaries") -> list[dict[str, Any]]:
    with contextlib.closing(es.connect(config)) as client:
        client.indices.refresh(index=config.index_pattern(kind))
        hits = client.search(index=config.index_pattern(kind), size=10_000)["hits"]["hits"]
    return [hit["_source"] for hit in hits]


@pytest.mark.elasticsearch
def test_small_tables_share_a_request_and_letters_keep_their_window(
    config: es.ElasticsearchConfig,
) -> None:
    table = summaries(6)
    bad = table.set_column(table.column_names.index("clicks"), "clicks", pa.array(["x"] * 6))
    pieces = [
        table.slice(0, 2),
        table.slice(2, 2).to_batches()[0],
        bad.slice(4, 1),
        bad.slice(5, 1),
    ]
    options = PipelineOptions([])
    pipeline = beam.Pipeline(runner=direct_runner(options), options=options)
    letters = (
        pipeline
        | beam.Create([pieces])
        | beam.FlatMap(lambda given: [TimestampedValue(x, 90 * n) for n, x in enumerate(given)])
        | beam.WindowInto(FixedWindows(60))
        | WriteToElasticsearch(config, "summaries")
    )
    windows = letters | beam.Map(
        lambda letter, window=beam.DoFn.WindowParam: (letter.error_type, int(window.start))
    )
    kind = "document_parsing_exception"
    assert_that(windows, equal_to([(kind, 180), (kind, 240)]), reify_windows=False)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.result for c in result.metrics().query()["counters"]}
    assert counters["bulk_requests"] == 1
    assert (counters["documents_written"], counters["documents_dead"]) == (4, 2)
    assert len(found(config)) == 4


@pytest.mark.elasticsearch
def test_an_index_of_an_older_adtally_learns_the_new_fields(
    elasticsearch_node: ElasticsearchNode,
) -> None:
    config = es.ElasticsearchConfig((elasticsearch_node.url,), f"u{uuid.uuid4().hex[:10]}")
    mappings = es.index_template(config, "summaries")["template"]["mappings"]
    old = {name: kind for name, kind in mappings["properties"].items() if "givt" not in name}
    made = documents(summaries(3), "summaries", config, START_MS)
    with contextlib.closing(es.connect(config)) as client:
        for index in {one.index for one in made}:
            client.indices.create(index=index, mappings={"dynamic": "strict", "properties": old})
        refused = BulkWriter(client, config).write(made)
        assert {one.error_type for one in refused} == {"strict_dynamic_mapping_exception"}
        es.install_templates(client, config)
        assert BulkWriter(client, config).write(made) == []
    assert [row["givt_clicks"] for row in found(config)] == [1, 1, 1]


@pytest.mark.elasticsearch
def test_flags_are_nested_documents_overwritten_whole(config: es.ElasticsearchConfig) -> None:
    options = PipelineOptions([])
    with beam.Pipeline(runner=direct_runner(options), options=options) as pipeline:
        letters = pipeline | beam.Create([flags(3)]) | WriteToElasticsearch(config, "flags")
        assert_that(letters, equal_to([]))
    assert len(found(config, "flags")) == 3
    nested = {"path": "flags", "query": {"term": {"flags.evidence": "e2"}}}
    with contextlib.closing(es.connect(config)) as client:
        counted = client.count(index=config.index_pattern("flags"), query={"nested": nested})
    assert counted["count"] == 3


@pytest.mark.elasticsearch
def test_an_index_that_may_not_be_written_stops_the_run(config: es.ElasticsearchConfig) -> None:
    """403 of an item, as for a key without the privilege: no fault of the document."""
    with contextlib.closing(es.connect(config)) as client:
        bulk = BulkWriter(client, config)
        made = documents(summaries(2), "summaries", config, 0)
        bulk.write(made[:1])
        client.indices.put_settings(index=made[0].index, settings={"index.blocks.write": True})
        with pytest.raises(es.AccessDenied, match="403"):
            bulk.write(made[1:])


@pytest.mark.elasticsearch
def test_outdated_documents_go_page_by_page_through_429s(
    config: es.ElasticsearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elasticsearch_pages, "PAGE_DOCUMENTS", 3)
    monkeypatch.setattr("adtally.io.elasticsearch_bulk.FIRST_WAIT_SECONDS", 0.01)
    with contextlib.closing(es.connect(config)) as client:
        bulk = BulkWriter(client, config)
        hour = summaries(1, window_seconds=3600, window_end=START_MS + 3_600_000)
        for table in (summaries(10), hour, summaries(2, generation=1, version=(1 << 40) + 1)):
            assert bulk.write(documents(table, "summaries", config, 0)) == []
    asked = {"window_from_ms": START_MS, "window_to_ms": START_MS + 600_000, "generation": 1}
    with in_front_of(config.urls[0], [429, 503, 429]) as (url, seen):
        busy = es.ElasticsearchConfig((url,), config.index_prefix, retry_seconds=60.0)
        with contextlib.closing(es.connect(busy)) as client:
            assert es.delete_stale(client, busy, **asked, window_seconds=[60, 3600]) == 8
            assert es.delete_stale(client, busy, **asked, window_seconds=[60, 3600]) == 0
    assert sum(path == "/_bulk" for path, _ in seen) >= 3
    left = [(doc["window_seconds"], doc["generation"]) for doc in found(config)]
    assert sorted(left) == [(60, 1), (60, 1), (3600, 0)]


@pytest.mark.elasticsearch
def test_nothing_to_delete_where_nothing_was_written(config: es.ElasticsearchConfig) -> None:
    asked = {"window_from_ms": 0, "window_to_ms": START_MS, "generation": 3}
    with contextlib.closing(es.connect(config)) as client:
        assert es.delete_stale(client, config, **asked, window_seconds=[60]) == 0


@pytest.mark.elasticsearch
def test_the_node_refuses_large_requests_and_they_are_split() -> None:
    node = started_node({"http.max_content_length": "100kb"})
    try:
        config = es.ElasticsearchConfig((node.url,), retry_seconds=60.0)
        with contextlib.closing(es.connect(config)) as client:
            es.install_templates(client, config)
            large = summaries(1, advertiser_id="x", unique_user_hashes=list(range(60_000)))
            made = documents(summaries(400), "summaries", config, 0)
            made += documents(large, "summaries", config, 0)
            refused = BulkWriter(client, config).write(made)
        assert [item.document.routing for item in refused] == ["x"]
        assert len(found(config)) == 400
    finally:
        node.stop()


# --- the local node -------------------------------------------------------------------------


@pytest.mark.elasticsearch
@pytest.mark.usefixtures("elasticsearch_node")  # skips without Java
def test_a_node_keeps_its_data_over_restarts_and_kills(tmp_path: Path) -> None:
    with ElasticsearchNode(tmp_path) as node:
        config = es.ElasticsearchConfig((node.url,), retry_seconds=60.0)
        with contextlib.closing(es.connect(config)) as client:
            es.install_templates(client, config)
            BulkWriter(client, config).write(documents(summaries(3), "summaries", config, 0))
        url = node.url
        node.kill()
        assert not node.running
        node.start()
        node.restart()
        assert node.url == url
        assert len(found(config)) == 3
    assert (tmp_path / "elasticsearch.log").exists()


@pytest.mark.elasticsearch
def test_a_node_that_cannot_start_says_why(
    elasticsearch_node: ElasticsearchNode, tmp_path: Path
) -> None:
    with pytest.raises(ServiceFailed, match="end what listens there"):
        ElasticsearchNode(tmp_path, elasticsearch_node.port).start()
    with pytest.raises(ServiceFailed, match="no_such_setting"):
        ElasticsearchNode(tmp_path, settings={"no_such_setting": "1"}).start()


@pytest.mark.elasticsearch
@pytest.mark.usefixtures("elasticsearch_node")  # skips without Java
def test_no_node_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys\n"
        "from adtally.runners.local.elasticsearch_node import ElasticsearchNode\n"
        "node = ElasticsearchNode(pathlib.Path(sys.argv[1]))\n"
        "node.start()\n"
        "print(node.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        node = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    while _runs(node):
        assert datetime.datetime.now(datetime.UTC) < deadline
        threading.Event().wait(0.1)


def _runs(process: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return False
