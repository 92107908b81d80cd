"""Real servers for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from adtally.runners.local.pubsub_server import PubSubServer
from adtally.runners.local.service import MissingSystemPart


class _Startable(Protocol):
    def start(self) -> None: ...


Server = TypeVar("Server", bound=_Startable)


Made = TypeVar("Made")


def skipped_without(make: Callable[[], Made]) -> Made:
    """What a call gives; the test is skipped without the programs for it, and fails in CI."""
    try:
        return make()
    except MissingSystemPart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def started(server: Server) -> Server:
    """A server that runs; the test is skipped without the programs for it, and fails in CI."""
    skipped_without(server.start)
    return server


def started_node(settings: dict[str, str] | None = None) -> ElasticsearchNode:
    return started(ElasticsearchNode(settings=settings))


def started_kinesis() -> KinesisServer:
    return started(KinesisServer())


def started_pubsub() -> PubSubServer:
    return started(PubSubServer())


def started_flink(settings: dict[str, str] | None = None) -> FlinkCluster:
    return started(FlinkCluster(slots=4, settings=settings))
