"""Elasticsearch: monthly indices that are older than they have to be kept."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from elasticsearch import Elasticsearch

from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig

LEAST_SECONDS: Final = 7 * 86_400
"""Below this a stream may still write: what a restart looks back (two days), a Kinesis retention of
some days, and the allowed lateness after them. An index that is written again begins anew."""


class TooYoung(ValueError):
    """What is to be removed may still be written."""


@dataclass(frozen=True)
class OldIndex:
    """An index that lies before the border. ``store_bytes`` is the size of its primary shards."""

    name: str
    documents: int
    store_bytes: int


def month_end(name: str, pattern: str) -> datetime.datetime | None:
    """End (UTC) of the month of an index ``PATTERN`` with ``YYYY.MM`` for its ``*``, or None."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d{4})\.(\d{2})"), name)
    if match is None or not 1 <= int(match[2]) <= 12:
        return None
    year, month = divmod(int(match[1]) * 12 + int(match[2]), 12)  # the month after
    if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
        return None
    return datetime.datetime(year, month + 1, 1, tzinfo=datetime.UTC)


def check_ages(ages: Mapping[str, int], least_seconds: int = LEAST_SECONDS) -> None:
    """Refuse ages (seconds, by kind) in which documents still change.

    Raises:
        TooYoung: says which.
    """
    for kind, seconds in ages.items():
        if seconds < least_seconds:
            raise TooYoung(
                f"--{kind} {seconds / 86_400:g}d is less than the {least_seconds / 86_400:g}d in "
                f"which a stream may still write: an index that is removed and written again "
                f"begins anew, and lacks what it had. Keep them longer."
            )


def old_indices(
    client: Elasticsearch,
    config: ElasticsearchConfig,
    ages: Mapping[str, int],
    now: datetime.datetime,
) -> dict[str, list[OldIndex]]:
    """Indices of months that ended longer ago than the age (seconds) of their kind, by kind.

    Names say which month; indices with other names are nobody's business.
    """
    writer = BulkWriter(client, config)
    found = {}
    for kind, seconds in ages.items():
        pattern = config.index_pattern(kind)
        border = now - datetime.timedelta(seconds=seconds)
        names = writer.when_up(
            lambda pattern=pattern: client.indices.get(  # type: ignore[misc]
                index=pattern, features="settings", expand_wildcards="all"
            )
        )
        ends = {name: month_end(name, pattern) for name in sorted(names)}
        old = [name for name, end in ends.items() if end is not None and end <= border]
        found[kind] = [_measured(client, name) for name in old]
    return found


def remove(client: Elasticsearch, config: ElasticsearchConfig, index: OldIndex) -> None:
    """Delete an index by its full name; one that is gone already is fine."""
    BulkWriter(client, config).when_up(
        lambda: client.indices.delete(index=index.name, ignore_unavailable=True)
    )


def _measured(client: Elasticsearch, name: str) -> OldIndex:
    stats: Any = client.indices.stats(index=name, metric="store", forbid_closed_indices=False)
    size = stats["_all"]["primaries"].get("store", {}).get("size_in_bytes", 0)
    closed: Any = client.cat.indices(index=name, h="status", format="json", expand_wildcards="all")
    if closed[0]["status"] == "close":
        return OldIndex(name, 0, size)
    return OldIndex(name, int(client.count(index=name)["count"]), size)
