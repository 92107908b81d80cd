"""Tenants' aliases, retention, and a cluster without security: against a real node."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from elasticsearch import Elasticsearch

from adtally.io import elasticsearch_tenants as tenants
from adtally.io import schema
from adtally.io.elasticsearch import KINDS, ElasticsearchConfig, connect, install_templates
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode

pytestmark = pytest.mark.elasticsearch
TENANTS = ("acme", "Acme", "a,b", "*", '"ü" {{x}}', "_all", "-minus", "acme.", "x" * 300)


@pytest.fixture
def config(elasticsearch_node: ElasticsearchNode) -> ElasticsearchConfig:
    return ElasticsearchConfig((elasticsearch_node.url,), f"tenants-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def client(config: ElasticsearchConfig) -> Iterator[Elasticsearch]:
    with connect(config) as made:
        install_templates(made, config)
        yield made


def run(config: ElasticsearchConfig, *arguments: str, code: int = 0) -> str:
    given = ["--elasticsearch", *config.urls, "--elasticsearch-index-prefix", config.index_prefix]
    result = CliRunner().invoke(cli, ["elasticsearch", *arguments, *given])
    assert result.exit_code == code, result.output
    return result.output


def put(client: Elasticsearch, config: ElasticsearchConfig, kind: str, month: str) -> None:
    """A document of each tenant, routed as the sink does it; its id is the tenant's."""
    lines: list[Any] = []
    for number, one in enumerate(TENANTS):
        action = {"_index": f"{config.index_prefix}-{kind}-{month}", "_id": str(number)}
        lines.append(msgspec.json.encode({"index": {**action, "routing": one}}))
        lines.append(msgspec.json.encode({"advertiser_id": one, "window_seconds": 60}))
    answer = client.bulk(operations=lines, refresh=True)
    assert not answer["errors"], answer


def found(client: Elasticsearch, alias: str) -> list[str]:
    hits = client.search(index=alias, size=100)["hits"]["hits"]
    return [hit["_source"]["advertiser_id"] for hit in hits]


def test_an_alias_shows_one_tenant_now_and_in_months_to_come(
    client: Elasticsearch, config: ElasticsearchConfig
) -> None:
    for kind in KINDS:
        put(client, config, kind, "2026.03")
    said = run(config, "tenants", "--all")
    assert all(f"{one}\t{tenants.safe_name(one)}" in said for one in TENANTS)
    for kind in KINDS:
        put(client, config, kind, "2026.04")
    for one in TENANTS:
        for kind in KINDS:
            assert found(client, tenants.alias_name(config, kind, one)) == [one, one]
    # A search through an alias asks the tenant's shard only.
    shards = client.search_shards(index=tenants.alias_name(config, "flags", "acme"))["shards"]
    assert len(shards) == 2
    # Repeated, with another one, and taken away again.
    run(config, "tenants", "--advertiser", "late", "--advertiser", "acme")
    assert tenants.known_tenants(client, config) == {*TENANTS, "late"}
    run(config, "tenants", "--remove", "--advertiser", "acme", "--advertiser", "unknown")
    run(config, "tenants", "--remove", "--advertiser", "acme")
    assert not client.indices.exists_alias(name=tenants.alias_name(config, "flags", "acme"))
    put(client, config, "flags", "2026.05")
    assert not client.indices.exists_alias(name=tenants.alias_name(config, "flags", "acme"))
    assert len(found(client, tenants.alias_name(config, "flags", "Acme"))) == 3


def test_an_alias_keeps_nobody_apart(client: Elasticsearch, config: ElasticsearchConfig) -> None:
    """What docs/tenants.md warns of: a document is read by its id, whatever the filter says."""
    put(client, config, "flags", "2026.03")
    run(config, "tenants", "--advertiser", "acme")
    alias = tenants.alias_name(config, "flags", "acme")
    assert found(client, alias) == ["acme"]
    other = client.get(index=alias, id="1", routing="acme")
    assert other["_source"]["advertiser_id"] == "Acme"


def test_too_many_aliases_are_refused(client: Elasticsearch, config: ElasticsearchConfig) -> None:
    run(config, "tenants", "--advertiser", "a", "--most", "1")
    said = run(config, "tenants", "--advertiser", "b", "--most", "1", code=2)
    assert "--most" in said and tenants.known_tenants(client, config) == {"a"}


def test_months_that_are_over_go_and_others_stay(
    client: Elasticsearch, config: ElasticsearchConfig
) -> None:
    for kind in ("summaries", "flags"):
        for month in ("2019.12", "2020.01", "2099.01"):
            put(client, config, kind, month)
    own = f"{config.index_prefix}-flags-2020.01-mine"
    client.indices.create(index=own)
    client.indices.close(index=f"{config.index_prefix}-flags-2019.12")
    there = set(client.indices.get(index=f"{config.index_prefix}-*", expand_wildcards="all"))
    said = run(config, "retain", "--flags", "90d", "--dry-run")
    assert said.count("would be removed") == 2 and f"{len(TENANTS)} documents" in said

    said = run(config, "retain", "--flags", "90d", "--verdicts", "90d")
    gone = {f"{config.index_prefix}-flags-{month}" for month in ("2019.12", "2020.01")}
    assert all(f"{name}: removed" in said for name in gone)
    left = set(client.indices.get(index=f"{config.index_prefix}-*", expand_wildcards="all"))
    assert left == there - gone and own in left
    assert "no month" in run(config, "retain", "--flags", "90d")
    assert "7d" in run(config, "retain", "--flags", "1d", code=2)
    run(config, "retain", code=2)


def test_without_security_it_says_what_works_instead(config: ElasticsearchConfig) -> None:
    for command in (("setup", "--roles"), ("key", "--role", "reader")):
        said = run(config, *command, code=2)
        assert "no security" in said and "elasticsearch tenants" in said


def test_templates_with_aliases_still_map_everything(
    client: Elasticsearch, config: ElasticsearchConfig
) -> None:
    run(config, "tenants", "--advertiser", "acme")
    put(client, config, "summaries", "2026.03")
    index = f"{config.index_prefix}-summaries-2026.03"
    mapped = client.indices.get_mapping(index=index)[index]["mappings"]
    assert mapped["dynamic"] == "strict"
    assert {field.name for field in schema.summary_schema(schema.DIMENSIONS)} <= set(
        mapped["properties"]
    )
