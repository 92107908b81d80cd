"""What Elasticsearch has for tenants: its shards, and the documents that each got since a cursor.

Every operation on a shard (a document written, or deleted) has a number, ``_seq_no``. The shard's
global checkpoint is the highest number up to which all operations are done on every copy. So what
is read after checkpoint, refresh and snapshot, in this order, holds all operations up to the
checkpoint, and a cursor that is moved there passes over nothing. Numbers are those of one history
of a shard; where an index is made anew or restored, its history is another, and read from the
start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch, NotFoundError
from elasticsearch.serializer import CompatibilityModeJsonSerializer

from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig, connect
from adtally.io.pull_shards import Selection, Shard

PAGE_DOCUMENTS: Final = 5_000
PAGE_ADVERTISERS: Final = 10_000
"""Of one request; Elasticsearch makes 65,536 buckets and takes as many terms by default."""

KEEP_ALIVE: Final = "10m"
_HOUR_MS: Final = 3_600_000
_JSON: Final = "application/vnd.elasticsearch+json"
_SHARDS: Final = "index.number_of_shards"
_SEARCHED: Final = b'{"pit_id"'


class SnapshotLost(RuntimeError):
    """Elasticsearch gave a snapshot up, or a shard moved; the rest is read from another one."""


class Hit(msgspec.Struct):
    """A document as a search gives it."""

    id: str = msgspec.field(name="_id")
    sort: tuple[int, ...]
    source: msgspec.Raw = msgspec.field(name="_source", default=msgspec.Raw(b"{}"))
    primary_term: int = msgspec.field(name="_primary_term", default=0)
    seq_no: int = msgspec.field(name="_seq_no", default=-1)

    @property
    def advertiser_id(self) -> str:
        """As the document says: its routing is lost where somebody reindexed it without."""
        return _OWNER.decode(self.source).advertiser_id


class _Owner(msgspec.Struct):
    advertiser_id: str


class _Hits(msgspec.Struct):
    hits: list[Hit]


class _Page(msgspec.Struct):
    pit_id: str
    hits: _Hits
    aggregations: dict[str, Any] = {}


_PAGE: Final = msgspec.json.Decoder(_Page)
_OWNER: Final = msgspec.json.Decoder(_Owner)


class _Serializer(CompatibilityModeJsonSerializer):
    """Leaves answers to searches of a snapshot as they came: documents are decoded where they are
    written."""

    def loads(self, data: bytes) -> Any:
        return data if data.startswith(_SEARCHED) else super().loads(data)


class Source:
    """Reads; every call waits for a cluster that is away, as writes do.

    Raises:
        ElasticsearchUnavailable: it was away for ``config.retry_seconds``.
        AccessDenied: these credentials may not.
    """

    def __init__(self, config: ElasticsearchConfig, selection: Selection) -> None:
        self._config = config
        self._selection = selection
        self._client: Elasticsearch = connect(config, serializers={_JSON: _Serializer()})
        self._patient = BulkWriter(self._client, config)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that are pulled."""
        return self._selection.kinds

    def close(self) -> None:
        self._client.close()

    def ask(self, call: Any) -> Any:
        """The answer, whenever the cluster has one.

        Raises:
            SnapshotLost: what was asked for is no longer there.
        """

        def once() -> Any:
            try:
                return call()
            except NotFoundError as error:
                raise SnapshotLost(str(error.message)) from error

        return self._patient.when_up(once)

    def shards(self) -> list[Shard]:
        """All shards, with their checkpoints; what they had then is searchable when this returns.

        Raises:
            SnapshotLost: a shard has no started primary, or a copy did not refresh.
        """
        indices = self._client.indices
        patterns = [self._config.index_pattern(kind) for kind in self._selection.kinds]
        settings = [
            self.ask(
                lambda pattern=pattern: indices.get_settings(
                    index=pattern, name=_SHARDS, flat_settings=True, expand_wildcards="open"
                )
            )
            for pattern in patterns
        ]
        options: dict[str, Any] = {"index": patterns, "expand_wildcards": "open"}
        stats = self.ask(lambda: indices.stats(**options, level="shards", metric="docs"))
        refreshed = self.ask(lambda: indices.refresh(**options))
        if stats["_shards"]["failed"] or refreshed["_shards"]["failed"]:
            raise SnapshotLost("a shard did not answer")
        return [
            shard
            for kind, named in zip(self._selection.kinds, settings, strict=True)
            for index, about in sorted(named.items())
            for shard in self._of_index(
                kind, index, int(about["settings"][_SHARDS]), stats["indices"].get(index, {})
            )
        ]

    def _of_index(
        self, kind: str, index: str, shards: int, stats: dict[str, Any]
    ) -> Iterator[Shard]:
        for number in range(shards):
            primary = _primary(stats.get("shards", {}).get(str(number), ()))
            if primary is None:
                raise SnapshotLost(f"shard {number} of {index} has no primary")
            history = (stats["uuid"], primary["commit"]["user_data"]["history_uuid"])
            checkpoint = primary["seq_no"]["global_checkpoint"]
            yield Shard(kind, index, number, self._selection.history(kind, history), checkpoint)

    def snapshot(self, shard: Shard) -> Snapshot:
        """A shard as it is now, to be closed."""
        opened = self.ask(
            lambda: self._client.open_point_in_time(
                index=shard.index, keep_alive=KEEP_ALIVE, preference=f"_shards:{shard.number}"
            )
        )
        return Snapshot(self, shard, opened["id"], self._selection.filters(shard.kind))

    def search(self, **request: Any) -> _Page:
        """One page of a snapshot; a part of one would be taken for the whole, and is an error."""
        answer = self.ask(
            lambda: self._client.search(
                **request, track_total_hits=False, allow_partial_search_results=False
            )
        )
        return _PAGE.decode(answer.body)

    def close_snapshot(self, point: str) -> None:
        with contextlib.suppress(TransportError, ApiError):  # it ends by itself
            self._client.close_point_in_time(id=point)


def _primary(copies: Sequence[Any]) -> Any:
    for copy in copies:
        if copy["routing"]["primary"] and copy["routing"]["state"] in ("STARTED", "RELOCATING"):
            return copy
    return None


class Snapshot:
    """One shard at one moment. Calls come from several threads."""

    def __init__(
        self, source: Source, shard: Shard, point: str, filters: list[dict[str, Any]]
    ) -> None:
        self._source = source
        self.shard = shard
        self._point = point
        self._filters = filters

    def close(self) -> None:
        self._source.close_snapshot(self._point)

    def _page(self, *filters: dict[str, Any], **request: Any) -> _Page:
        query = {"bool": {"filter": [*self._filters, *filters]}}
        if not (self._filters or filters):
            query = {"match_all": {}}
        page = self._source.search(
            pit={"id": self._point, "keep_alive": KEEP_ALIVE}, query=query, **request
        )
        self._point = page.pit_id
        return page

    def pages(
        self, after: int, to: int | None, advertisers: Sequence[str] | None
    ) -> Iterator[list[Hit]]:
        """Documents with numbers above ``after``, page by page.

        They come as they lie on the disk: by number, each would cost Elasticsearch ten times as
        much (decision 24).

        Args:
            after: a cursor.
            to: the highest number; None for all.
            advertisers: of these; None for all.
        """
        numbers = {"gt": after} if to is None else {"gt": after, "lte": to}
        filters: list[dict[str, Any]] = [{"range": {"_seq_no": numbers}}]
        if advertisers is not None:
            filters.append({"terms": {"advertiser_id": list(advertisers)}})
        yield from self._hits(
            *filters, source={"excludes": ["unique_user_hashes"]}, seq_no_primary_term=True
        )

    def _hits(self, *filters: dict[str, Any], **request: Any) -> Iterator[list[Hit]]:
        after: tuple[int, ...] | None = None
        while True:
            hits = self._page(
                *filters,
                size=PAGE_DOCUMENTS,
                sort=[{"_shard_doc": "asc"}],
                search_after=after,
                **request,
            ).hits.hits
            if hits:
                yield hits
            if len(hits) < PAGE_DOCUMENTS:
                return
            after = hits[-1].sort

    def documents(self) -> dict[str, int]:
        """How many there are, by advertiser."""
        found: dict[str, int] = {}
        composite: dict[str, Any] = {
            "size": PAGE_ADVERTISERS,
            "sources": [{"advertiser": {"terms": {"field": "advertiser_id"}}}],
        }
        while True:
            answer = self._page(size=0, aggregations={"by": {"composite": composite}})
            buckets = answer.aggregations["by"]["buckets"]
            found.update((b["key"]["advertiser"], b["doc_count"]) for b in buckets)
            if len(buckets) < PAGE_ADVERTISERS:
                return found
            composite["after"] = answer.aggregations["by"]["after_key"]

    def hours(self, advertiser_id: str) -> dict[int, int]:
        """How many documents of an advertiser, by the hour (ms) that their windows begin in."""
        histogram = {"field": "window_start", "fixed_interval": "1h", "min_doc_count": 1}
        answer = self._page(
            {"term": {"advertiser_id": advertiser_id}},
            size=0,
            aggregations={"by": {"date_histogram": histogram}},
        )
        return {b["key"]: b["doc_count"] for b in answer.aggregations["by"]["buckets"]}

    def ids(self, advertiser_id: str, hour_ms: int) -> set[str]:
        """``_id`` of an advertiser's documents whose windows begin in an hour."""
        hour = {"gte": hour_ms, "lt": hour_ms + _HOUR_MS, "format": "epoch_millis"}
        whose = {"term": {"advertiser_id": advertiser_id}}
        pages = self._hits(whose, {"range": {"window_start": hour}}, source=False)
        return {hit.id for hits in pages for hit in hits}
