"""Real servers for tests."""

from __future__ import annotations

import os

import pytest

from adtally.runners.local.elasticsearch_node import ElasticsearchNode, MissingSystemPart


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
