"""Where Elasticsearch holds a tenant or a user."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

from adtally.io import elasticsearch_erase
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig, connect
from adtally.io.elasticsearch_tenants import known_tenants, take_aliases
from adtally.transforms.forget import Person, Plan, Tokens


def person_documents(
    config: ElasticsearchConfig,
    person: Person,
    known: Plan,
    tokens: Tokens,
    window_seconds: Sequence[int],
    k: int,
    write: bool,
) -> Counter[str]:
    """Documents that name or count a user, by kind; see ``elasticsearch_erase.forget_person``."""
    with _writer(config) as writer:
        counts = elasticsearch_erase.forget_person(
            writer, config, person, known, tokens, window_seconds, k, write
        )
    return Counter(counts) - Counter()


def tenant_documents(config: ElasticsearchConfig, advertiser: str, write: bool) -> Counter[str]:
    """Documents of a tenant, by kind, and whether it has aliases, which name it."""
    with _writer(config) as writer:
        counts = elasticsearch_erase.erase_advertiser(writer, config, advertiser, write)
        if advertiser in known_tenants(writer.client, config):
            counts["tenants with aliases"] = 1
            if write:
                take_aliases(writer.client, config, [advertiser])
    return Counter(counts) - Counter()


@contextlib.contextmanager
def _writer(config: ElasticsearchConfig) -> Iterator[BulkWriter]:
    with contextlib.closing(connect(config)) as client:
        yield BulkWriter(client, config)
