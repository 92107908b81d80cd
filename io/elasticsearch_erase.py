"""Elasticsearch: a tenant's documents deleted, or a user's name taken out of documents.

Bulk requests with versions alone: delete-by-query is a module that not every cluster has.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from adtally.io.elasticsearch import KINDS
from adtally.io.elasticsearch_bulk import BulkWriter, Document, address
from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.elasticsearch_pages import pages
from adtally.transforms.forget import Person, Plan, Tokens
from adtally.transforms.forget_rows import forget_in_flags, forget_in_hashes

FOR_GOOD: Final = 1 << 62
"""Version of a delete: above that of any document. The index remembers it for ``index.gc_deletes``
(60 s), and refuses panes of the tenant meanwhile; after that only the source can keep them out."""

TERMS_AT_ONCE: Final = 4_096
"""Of the 65,536 that a query may have."""


class DocumentsLeft(RuntimeError):
    """Documents could not be deleted or changed."""


def erase_advertiser(
    writer: BulkWriter, config: ElasticsearchConfig, advertiser: str, write: bool = True
) -> dict[str, int]:
    """Delete all documents of an advertiser; says how many, by kind. Safe to repeat.

    Args:
        writer: sends the deletes.
        config: names the indices.
        advertiser: exact ``advertiser_id``.
        write: False only counts.

    Raises:
        DocumentsLeft: the cluster refuses a delete for good.
    """
    query = {"term": {"advertiser_id": advertiser}}
    counts = dict.fromkeys(KINDS, 0)
    for kind in KINDS:
        for hits in pages(writer, config.index_pattern(kind), query):
            counts[kind] += len(hits)
            if write:
                _write(writer, [Document.made("delete", address(hit), FOR_GOOD) for hit in hits])
    return counts


def forget_person(
    writer: BulkWriter,
    config: ElasticsearchConfig,
    person: Person,
    known: Plan,
    tokens: Tokens,
    window_seconds: Sequence[int],
    k: int,
    write: bool = True,
) -> dict[str, int]:
    """Take a person out of documents, which keep their ids and versions; says how many, by kind.

    A document that a pane has replaced meanwhile stays as the pane has it: look again when its
    window is final.

    Args:
        writer: sends the documents.
        config: names the indices.
        person: whom.
        known: of the whole log: which windows their events are in.
        tokens: what replaces them.
        window_seconds: sizes of the windows of summaries.
        k: hashes that a summary keeps.
        write: False only counts.

    Raises:
        DocumentsLeft: the cluster refuses a document for good.
    """
    found: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    for kind, query in _queries(person, known, window_seconds):
        for hits in pages(writer, config.index_pattern(kind), query, source=True):
            changed = [
                Document.made("index", address(hit), hit["_version"], msgspec.json.encode(new))
                for hit in hits
                if (new := _without(hit["_source"], kind, person, known, tokens, k)) is not None
            ]
            found[kind] |= {(document.index, document.id) for document in changed}
            if write:
                _write(writer, changed)
    return {kind: len(documents) for kind, documents in found.items()}


def _queries(
    person: Person, known: Plan, window_seconds: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    subject = {"nested": {"path": "flags", "query": {"term": {"flags.subject": person.user}}}}
    only = [] if person.advertiser is None else [{"term": {"advertiser_id": person.advertiser}}]
    for kind in KINDS:
        if kind != "summaries":
            yield kind, {"bool": {"filter": [subject, *only]}}
    base = {(advertiser, start) for advertiser, start, _ in known.addresses}
    for kind, windows, sizes in (
        ("flags", base, (1,)),
        ("summaries", known.windows, [seconds * 1000 for seconds in window_seconds]),
    ):
        by_advertiser: dict[str, set[int]] = {}
        for advertiser, start in windows:
            starts = by_advertiser.setdefault(advertiser, set())
            starts.update(start // size * size for size in sizes)
        for advertiser, starts in by_advertiser.items():
            ordered = sorted(starts)
            for at in range(0, len(ordered), TERMS_AT_ONCE):
                some = {"terms": {"window_start": ordered[at : at + TERMS_AT_ONCE]}}
                yield kind, {"bool": {"filter": [{"term": {"advertiser_id": advertiser}}, some]}}


def _without(
    source: dict[str, Any], kind: str, person: Person, known: Plan, tokens: Tokens, k: int
) -> dict[str, Any] | None:
    advertiser = source["advertiser_id"]
    if kind == "summaries":
        hashes = forget_in_hashes(source["unique_user_hashes"], person.user, tokens, k)
        return None if hashes is None else {**source, "unique_user_hashes": hashes}
    start = datetime.datetime.fromisoformat(source["window_start"])
    flags = forget_in_flags(
        source["flags"], advertiser, round(start.timestamp() * 1000), person, known, tokens
    )
    return None if flags is None else {**source, "flags": flags}


def _write(writer: BulkWriter, documents: list[Document]) -> None:
    refused = writer.write(documents)
    if refused:
        raise DocumentsLeft(
            f"{len(refused)} documents could not be erased: {refused[0].reason}. Correct that, "
            f"and run the same command again."
        )
