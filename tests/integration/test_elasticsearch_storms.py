"""The sink before a real node and a proxy that gives the answers of one under stress."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from adtally.io.elasticsearch import ElasticsearchConfig, connect, install_templates
from adtally.io.elasticsearch_bulk import BulkWriter, Document, ElasticsearchUnavailable
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests.fault_proxy import Changed, Cut, Dribbled, Fault, FaultProxy, Lost, Request, Truncated
from tests.faults import storms
from tests.integration.test_elasticsearch_sink import config_for, made, stored, summaries

pytestmark = pytest.mark.elasticsearch


@pytest.fixture
def before_node(elasticsearch_node: ElasticsearchNode) -> Iterator[FaultProxy]:
    with FaultProxy(elasticsearch_node.url) as proxy:
        yield proxy


@pytest.fixture
def config(before_node: FaultProxy) -> ElasticsearchConfig:
    made = config_for(before_node.url, batch_bytes=40_000)
    with contextlib.closing(connect(made)) as client:
        install_templates(client, made)
    return made


def impatient(config: ElasticsearchConfig) -> BulkWriter:
    """Tries again at once."""
    return BulkWriter(connect(config), config, sleep=lambda seconds: None)


def ids(documents: list[Document]) -> set[str]:
    return {document.id for document in documents}


def test_of_a_request_only_what_failed_is_sent_again_or_refused(
    before_node: FaultProxy, config: ElasticsearchConfig
) -> None:
    """429, 503 and a field that the mapping does not take, among items that are written."""
    judge = storms.items(random.Random(1), busy=0.4, broken=0.05)
    answered: Counter[tuple[str, int]] = Counter()

    def noted(request: Request) -> Fault | None:
        fault = judge(request)
        if not isinstance(fault, Changed):
            return fault

        def exchange(body: bytes, ask: storms.Ask) -> storms.Answer:
            sent = [json.loads(line)["index"]["_id"] for line in body.split(b"\n")[:-1:2]]
            status, headers, answer = fault.exchange(body, ask)
            for identity, item in zip(sent, json.loads(answer)["items"], strict=True):
                answered[identity, item["index"]["status"]] += 1
            return status, headers, answer

        return Changed(exchange)

    documents = made(config, summaries(600))
    bulk = impatient(config)
    with storms.storm(before_node, noted):
        refused = bulk.write(documents)
    bad = {identity for identity, status in answered if status == 400}
    good = {identity for identity, status in answered if status < 300}
    again = {identity for identity, status in answered if status in (429, 503)}
    assert bad == {item.document.id for item in refused}
    assert {item.error_type for item in refused} == {"document_parsing_exception"}
    assert good == ids(documents) - bad
    assert again
    assert all(times == 1 for (_, status), times in answered.items() if status not in (429, 503))
    assert bulk.counts.written == len(good) == len(stored(config))


def test_a_storm_of_429s_passes(before_node: FaultProxy, config: ElasticsearchConfig) -> None:
    """By the node, with and without Retry-After, and by a proxy that does not say what it is."""
    answers = [storms.FROM_NODE, storms.TOLD_WHEN, storms.FROM_PROXY, storms.BAD_GATEWAY] * 3
    left = iter(answers)
    bulk = impatient(config)
    with storms.storm(before_node, lambda request: next(left, None)):
        assert bulk.write(made(config, summaries(100))) == []
    assert bulk.counts.retries == len(answers)
    assert len(stored(config)) == 100


def test_a_storm_that_lasts_fails_the_write_and_says_so(
    before_node: FaultProxy, config: ElasticsearchConfig
) -> None:
    short = ElasticsearchConfig(config.urls, config.index_prefix, retry_seconds=0.3)
    with (
        storms.storm(before_node, lambda request: storms.FROM_PROXY),
        pytest.raises(ElasticsearchUnavailable, match=r"100 documents .* status 429 after 0 s"),
    ):
        impatient(short).write(made(config, summaries(100)))


@pytest.mark.parametrize(
    "fault",
    [Cut(), Lost(), Truncated(), Truncated(0.0), Dribbled(0.5), storms.UNAVAILABLE],
    ids=["cut", "answer lost", "answer cut", "no body", "answer dribbles", "503 of nobody"],
)
def test_an_answer_that_does_not_arrive_whole_is_none(
    before_node: FaultProxy, config: ElasticsearchConfig, fault: Fault
) -> None:
    left = iter([fault, fault])
    documents = made(config, summaries(60))
    with storms.storm(before_node, lambda request: next(left, None)):
        assert impatient(config).write(documents) == []
    assert len(before_node.faults) == 2
    assert len(stored(config)) == 60
