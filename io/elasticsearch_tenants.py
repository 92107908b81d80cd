"""Elasticsearch: aliases that show one tenant's documents.

An alias has a filter and the tenant's routing, so a search through it finds that tenant and asks
one shard of each index. It keeps nobody apart: ``GET alias/_doc/ID`` passes the filter by, and
without security anyone may ask the index itself. Decision 21 says more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from elasticsearch import Elasticsearch, NotFoundError

from adtally.io.elasticsearch import KINDS, install_templates
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig, tenants_template

_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Ids that are their own names: what index names may have, without the dot."""

_HASH_BYTES: Final = 8
"""Among 100,000 tenants two have the same hash with a probability of 3 in 10^10."""

ACTIONS_AT_ONCE: Final = 1_000


class TooManyTenants(ValueError):
    """So many aliases would slow the whole cluster down."""


def safe_name(advertiser: str) -> str:
    """A name for an id that may be any text; no two ids have the same.

    Plain ids are their own names; others keep what is plain of them, and end in a dot and a hash,
    which no plain one has.
    """
    if _PLAIN.fullmatch(advertiser):
        return advertiser
    kept = re.sub(r"[^a-z0-9]+", "-", advertiser.lower()).strip("-")[:32] or "x"
    return f"{kept}.{hashlib.blake2b(advertiser.encode(), digest_size=_HASH_BYTES).hexdigest()}"


def alias_name(config: ElasticsearchConfig, kind: str, advertiser: str) -> str:
    """Such as ``adtally-tenant-summaries-acme``. No pattern of a kind's indices matches it."""
    return f"{config.index_prefix}-tenant-{kind}-{safe_name(advertiser)}"


def alias_body(advertiser: str) -> dict[str, Any]:
    """Filter and routing of a tenant's aliases; a comma is a list to searches, so it has none."""
    body: dict[str, Any] = {"filter": {"term": {"advertiser_id": advertiser}}}
    return body if "," in advertiser else {**body, "routing": advertiser}


def advertisers_in(client: Elasticsearch, config: ElasticsearchConfig) -> Iterator[str]:
    """Every advertiser that has summaries, in order."""
    after: dict[str, Any] = {}
    composite = {"size": 1_000, "sources": [{"id": {"terms": {"field": "advertiser_id"}}}]}
    writer = BulkWriter(client, config)
    while True:
        answer = writer.when_up(
            lambda after=after: client.search(  # type: ignore[misc]
                index=config.index_pattern("summaries"),
                size=0,
                aggs={"all": {"composite": {**composite, **after}}},
                ignore_unavailable=True,
                allow_partial_search_results=False,
            )
        )
        found = answer.get("aggregations", {}).get("all", {"buckets": []})
        yield from (bucket["key"]["id"] for bucket in found["buckets"])
        if "after_key" not in found:
            return
        after = {"after": found["after_key"]}


def known_tenants(client: Elasticsearch, config: ElasticsearchConfig) -> set[str]:
    """The tenants that have aliases in indices to come."""

    def ask() -> Any:
        try:
            return client.cluster.get_component_template(name=tenants_template(config, KINDS[0]))
        except NotFoundError:
            return None

    answer = BulkWriter(client, config).when_up(ask)
    if answer is None:
        return set()
    aliases = answer["component_templates"][0]["component_template"]["template"]["aliases"]
    return {one["filter"]["term"]["advertiser_id"] for one in aliases.values()}


def give_aliases(
    client: Elasticsearch, config: ElasticsearchConfig, advertisers: Iterable[str], most: int
) -> list[str]:
    """Aliases for tenants, beside those that there are, in all indices and those to come.

    Safe to repeat.

    Returns:
        What was done, a line for each kind.

    Raises:
        TooManyTenants: with those that have aliases already they are more than ``most``.
    """
    tenants = sorted(known_tenants(client, config) | set(advertisers))
    if len(tenants) > most:
        raise TooManyTenants(
            f"{len(tenants):,} tenants would have {len(KINDS) * len(tenants):,} aliases a month, "
            f"all of them part of the cluster's state, which every node holds; beyond {most:,} "
            f"that slows down each new index. Give tenants API keys instead, or raise --most."
        )
    return _set_aliases(client, config, tenants, "add", tenants)


def take_aliases(
    client: Elasticsearch, config: ElasticsearchConfig, advertisers: Sequence[str]
) -> list[str]:
    """Remove tenants' aliases, everywhere; safe to repeat."""
    left = sorted(known_tenants(client, config) - set(advertisers))
    return _set_aliases(client, config, left, "remove", advertisers)


def _set_aliases(
    client: Elasticsearch,
    config: ElasticsearchConfig,
    tenants: Sequence[str],
    what: str,
    changed: Sequence[str],
) -> list[str]:
    """Indices to come first: one that is made meanwhile has them then, or is found below."""
    writer = BulkWriter(client, config)
    done = []
    for kind in KINDS:
        aliases = {alias_name(config, kind, one): alias_body(one) for one in tenants}
        writer.when_up(
            lambda kind=kind, aliases=aliases: client.cluster.put_component_template(  # type: ignore[misc]
                name=tenants_template(config, kind),
                template={"aliases": aliases},
                meta={"made_by": "adtally"},
            )
        )
    install_templates(client, config)
    for kind in KINDS:
        indices = sorted(client.indices.get(index=config.index_pattern(kind), features="settings"))
        for index in indices:
            there = client.indices.get_alias(index=index)[index]["aliases"] if what != "add" else {}
            names = {one: alias_name(config, kind, one) for one in changed}
            # All that is asked for again is fine, and a removal of nothing is an error.
            some = [one for one in changed if what == "add" or names[one] in there]
            for at in range(0, len(some), ACTIONS_AT_ONCE):
                actions = [
                    {what: {"index": index, "alias": names[one], **_more(one, what)}}
                    for one in some[at : at + ACTIONS_AT_ONCE]
                ]
                writer.when_up(
                    lambda actions=actions: client.indices.update_aliases(actions=actions)  # type: ignore[misc]
                )
        verb = "have" if what == "add" else "no longer have"
        done.append(
            f"{len(changed):,} tenants {verb} an alias {config.index_prefix}-tenant-{kind}-* "
            f"({len(indices)} indices, and those to come)"
        )
    return done


def _more(advertiser: str, what: str) -> dict[str, Any]:
    return alias_body(advertiser) if what == "add" else {}
