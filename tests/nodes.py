"""Real servers for tests."""

from __future__ import annotations

import os

import pytest

from adtally.runners.local import service
from adtally.runners.local.elasticsearch_node import ElasticsearchNode, MissingSystemPart
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer


def started_node(settings: dict[str, str] | None = None) -> ElasticsearchNode:
    """A node that runs; the test is skipped without Java, and fails without it in CI."""
    node = ElasticsearchNode(settings=settings)
    try:
        node.start()
    except MissingSystemPart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return node


def started_kinesis() -> KinesisServer:
    """A Kinesis that runs; the test is skipped without Node.js, and fails without it in CI."""
    server = KinesisServer()
    try:
        server.start()
    except service.MissingSystemPart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return server


def started_flink() -> FlinkCluster:
    """A Flink cluster that runs; the test is skipped without Java, and fails without it in CI."""
    cluster = FlinkCluster(slots=4)
    try:
        cluster.start()
    except service.MissingSystemPart as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return cluster
