"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from adtally.runners.direct import use_storage
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from adtally.runners.local.postgres_server import PostgresServer
from adtally.runners.local.pubsub_server import PubSubServer
from tests.fault_proxy import FaultProxy
from tests.nodes import started, started_flink, started_kinesis, started_node, started_pubsub
from tests.stores import STORES, ObjectStore

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("adtally", deadline=None)
hypothesis.settings.load_profile("adtally")

REAL_CLICKS = Path(__file__).parents[2] / "shared" / "data" / "clicks"


@pytest.fixture(scope="session")
def real_clicks() -> Path:
    """100,000 real clicks as hourly logs; they stay out of this repository."""
    if not REAL_CLICKS.is_dir():
        pytest.skip(f"the real clicks are not at {REAL_CLICKS}")
    return REAL_CLICKS


@pytest.fixture(scope="session")
def elasticsearch_node() -> Iterator[ElasticsearchNode]:
    """A running node, shared by the session; tests keep apart by index prefix."""
    node = started_node()
    yield node
    node.stop()


@pytest.fixture(scope="session")
def kinesis_server() -> Iterator[KinesisServer]:
    """A running Kinesis, shared by the session; tests keep apart by stream."""
    server = started_kinesis()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pubsub_server() -> Iterator[PubSubServer]:
    """A running Pub/Sub, shared by the session; tests keep apart by topic."""
    server = started_pubsub()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], PostgresServer]]:
    """Gives a running PostgreSQL, shared by the session; tests keep apart by database."""
    running: list[PostgresServer] = []

    def get() -> PostgresServer:
        if not running:
            running.append(started(PostgresServer()))
        return running[0]

    yield get
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def object_store() -> Iterator[Callable[[str], ObjectStore]]:
    """Gives the store of a scheme, shared by the session; tests keep apart by bucket."""
    running: dict[str, ObjectStore] = {}

    def of(scheme: str) -> ObjectStore:
        if scheme not in running:
            running[scheme] = STORES[scheme]()
        return running[scheme]

    yield of
    for store in running.values():
        store.stop()


@pytest.fixture(params=list(STORES))
def store(
    request: pytest.FixtureRequest,
    object_store: Callable[[str], ObjectStore],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ObjectStore]:
    """Each object store in turn, as the one that adtally uses."""
    found = object_store(request.param)
    for name, value in found.environment(found.url).items():
        monkeypatch.setenv(name, value)
    use_storage(found.arguments(found.url))
    yield found
    use_storage([])


@pytest.fixture
def proxy(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands between adtally and the store."""
    with FaultProxy(store.url) as between:
        for name, value in store.environment(between.url).items():
            monkeypatch.setenv(name, value)
        use_storage(store.arguments(between.url))
        yield between


@pytest.fixture
def flink() -> Iterator[FlinkCluster]:
    """A Flink cluster of its own for a test that breaks it: job server and worker pool too."""
    cluster = started_flink()
    yield cluster
    cluster.stop()
