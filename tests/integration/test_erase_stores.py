"""Erasure from a real Elasticsearch node, and from object stores of this machine."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from adtally.io.elasticsearch import KINDS, ElasticsearchConfig, connect
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_pages import pages
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests import erasing
from tests.erasing import TENANT, VICTIM, names, rows, run, unnamed
from tests.stores import ObjectStore, save

ROLLUP = ("--rollup", "1h,1d", "--quiet")
USER = ("--user", VICTIM, "--yes", "--quiet")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return erasing.logs_with(tmp_path_factory.mktemp("logs"), events=300)


def documents(url: str, prefix: str) -> dict[tuple[str, str], dict[str, Any]]:
    """All documents with their versions and routing, by index and id."""
    config = ElasticsearchConfig((url,), index_prefix=prefix)
    with connect(config) as client:
        found = {
            (hit["_index"], hit["_id"]): hit
            for kind in KINDS
            for hits in pages(
                BulkWriter(client, config), config.index_pattern(kind), {"match_all": {}}, True
            )
            for hit in hits
        }
    return {key: {k: v for k, v in hit.items() if k != "sort"} for key, hit in found.items()}


@pytest.mark.elasticsearch
def test_documents_of_a_user_and_of_a_tenant(
    logs: Path, tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    url, prefix, out = elasticsearch_node.url, f"erase-{uuid.uuid4().hex[:8]}", tmp_path / "out"
    there = ("--elasticsearch", url, "--elasticsearch-index-prefix", prefix)
    given = ("--output", str(out), *there)
    run("backfill", "--input", str(logs), *given, "--elasticsearch-setup", *ROLLUP)
    before = documents(url, prefix)
    said = run("erase", *given, "--user", VICTIM, "--dry-run", "--quiet").output
    assert "summaries" in said and documents(url, prefix) == before

    run("erase", *given, *USER)
    after = documents(url, prefix)
    assert not any(spelled in str(after) for spelled in names(VICTIM))
    assert after.keys() == before.keys()
    changed = {key for key in before if before[key] != after[key]}
    assert {next(kind for kind in KINDS if f"-{kind}-" in index) for index, _ in changed} == {
        "summaries",
        "flags",
        "verdicts",
    }
    for key in changed:
        old, new = before[key], after[key]
        assert (old["_version"], old["_routing"]) == (new["_version"], new["_routing"])
        was, now = old["_source"], new["_source"]
        differing = {name for name in was if was[name] != now[name]}
        assert differing in ({"unique_user_hashes"}, {"flags"})
    flagged = {
        (flag["rule"], flag["subject_type"], flag["count"])
        for hit in after.values()
        for flag in hit["_source"].get("flags", ())
        if flag["subject"].startswith("erased-")
    }
    assert {rule for rule, _, _ in flagged} >= {"givt_click_rate_ip", "givt_click_rate_user"}
    # Documents name whom the files name.
    for view, kind in (("flags", "flags"), ("look_back_flags", "verdicts")):
        subjects = {flag[-1] for flag in rows(out, {view: "subject"})[view]}
        assert subjects == {
            flag["subject"]
            for (index, _), hit in after.items()
            if f"-{kind}-" in index
            for flag in hit["_source"]["flags"]
        }
    # A re-tally renews every document of its range, and brings nobody back.
    range_ = ("--from", "2026-03-01T00:00Z", "--to", "2026-03-02T00:00Z", "--quiet")
    run("backfill", "--input", f"{out}/events", *given, *range_)
    tallied = documents(url, prefix)
    assert not any(spelled in str(tallied) for spelled in names(VICTIM))

    run("elasticsearch", "tenants", "--advertiser", TENANT, *there)
    run("erase", *given, "--advertiser", TENANT, "--yes", "--quiet")
    with connect(ElasticsearchConfig((url,), prefix)) as client:
        assert TENANT not in str(client.cluster.get_component_template(name=f"{prefix}-*"))
        assert TENANT not in str(client.indices.get_alias(index=f"{prefix}-*"))
    others = {key: hit for key, hit in tallied.items() if hit["_routing"] != TENANT}
    assert documents(url, prefix) == others != tallied


def test_objects_of_a_store(logs: Path, tmp_path: Path, store: ObjectStore) -> None:
    bucket = store.make_bucket()
    out, there = f"{store.scheme}://{bucket}/out", store.arguments(store.url)
    run("backfill", "--input", str(logs), "--output", out, "--quiet", *there)
    before = store.objects(bucket)
    counted = rows(save(before, tmp_path / "before") / "out")
    run("erase", "--output", out, *USER, *there)
    after = store.objects(bucket)
    assert {key for key in after if "/runs/erasure-" not in key} == before.keys()
    assert unnamed(saved := save(after, tmp_path / "after") / "out", VICTIM)
    assert rows(saved) == counted
    run("erase", "--output", out, "--advertiser", TENANT, "--yes", "--quiet", *there)
    last = save(store.objects(bucket), tmp_path / "last") / "out"
    assert unnamed(last, TENANT)
