"""Fixtures that start real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from adtally.runners.local.elasticsearch_node import ElasticsearchNode, MissingSystemPart


@pytest.fixture(scope="session")
def elasticsearch_node() -> Iterator[ElasticsearchNode]:
    """A running node, shared by the session; tests keep apart by index prefix."""
    node = started_node()
    yield node
    node.stop()


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
