"""Bulk writes: every item's result is checked, and only what failed is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import tenacity
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

from adtally.io.elasticsearch_client import (
    AccessDenied,
    ElasticsearchConfig,
    RequestRefused,
    denied,
    error_type,
    not_trusted,
)

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass; every other 4xx will fail again however often it is tried."""

SPLIT: Final = frozenset({400, 413})
"""Statuses of a whole request that one document in it can cause; halves find out which."""

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
WARN_SECONDS: Final = 10.0
"""At most one warning in this time: a cluster that is away says so, and does not flood the log."""

NEEDED: Final = ("items.*.status", "items.*.error")
"""Of a bulk answer; the rest, three quarters of it, would only be parsed and dropped."""

T = TypeVar("T")
_LOG = logging.getLogger("adtally.elasticsearch")


class ElasticsearchUnavailable(RuntimeError):
    """Documents could not be written in time; the bundle fails, and nothing counts as done."""


class _TryAgain(Exception):
    """Some documents are still to be written."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document: where it goes, which version it is, and its JSON; a delete has no body."""

    index: str
    id: str
    routing: str
    version: int
    action: bytes
    body: bytes

    @property
    def size(self) -> int:
        return len(self.action) + len(self.body) + 2

    @classmethod
    def made(
        cls,
        what: str,
        address: tuple[str, str, str],
        version: int,
        body: bytes = b"",
        version_type: str = "external_gte",
    ) -> Document:
        """A document with its line of a bulk request.

        Args:
            what: ``index`` or ``delete``.
            address: index, id, routing; of a hit: :func:`address`.
            version: external.
            body: JSON; none of a delete.
            version_type: ``external`` refuses an equal version as well.
        """
        index, id_, routing = address
        action = {
            "_index": index,
            "_id": id_,
            "routing": routing,
            "version": version,
            "version_type": version_type,
        }
        return cls(index, id_, routing, version, msgspec.json.encode({what: action}), body)


def address(hit: Mapping[str, Any]) -> tuple[str, str, str]:
    """Where a document lies that a search has found: index, id, routing."""
    return hit["_index"], hit["_id"], hit["_routing"]


@dataclass(frozen=True)
class Refused:
    """A document that the index will never take, and the server's reason."""

    document: Document
    error_type: str
    reason: str


@dataclass
class BulkCounts:
    """What a writer has done."""

    written: int = 0
    superseded: int = 0
    requests: int = 0
    retries: int = 0
    milliseconds: list[int] = field(default_factory=list)


class BulkWriter:
    """Writes documents so that each is stored, superseded by a newer version, or refused.

    Guarantee: at least once, into documents whose id and version follow from what they say, so a
    repeated write changes nothing and an older one never undoes a newer. 429, 5xx and lost
    connections are tried again with growing, random waits; a refused item (4xx) is given back.
    Credentials that do not suffice, for all documents or for one, stop everything: they are no
    fault of the document.

    Args:
        client: without retries of its own.
        config: sizes and patience.
        sleep: for tests.
    """

    def __init__(
        self,
        client: Elasticsearch,
        config: ElasticsearchConfig,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self._config = config
        self._sleep = sleep
        self._batch_bytes = config.batch_bytes
        self._warned_at = -WARN_SECONDS
        self.counts = BulkCounts()

    def write(self, documents: list[Document]) -> list[Refused]:
        """Write documents, in requests of ``batch_bytes``; returns those refused.

        Raises:
            ElasticsearchUnavailable: some are not written after ``retry_seconds``.
            AccessDenied: at once, where the credentials are wrong.
            RequestRefused: at once, where no document could be written.
        """
        refused: list[Refused] = []
        for batch in batches(documents, self._batch_bytes):
            refused += self._write_batch(batch)
        return refused

    def when_up(self, ask: Callable[[], T]) -> T:
        """Ask the cluster something, with the same patience as for a write; gives the answer."""

        def once() -> T:
            try:
                return ask()
            except TransportError as error:
                raise _TryAgain(self._no_answer(error)) from error
            except ApiError as error:
                if error.meta.status not in RETRIED:
                    raise self._fatal(error) from None
                raise _TryAgain(f"status {error.meta.status}") from error

        return self._patiently(once)

    def _write_batch(self, batch: list[Document]) -> list[Refused]:
        refused: list[Refused] = []
        pending = batch

        def once() -> None:
            nonlocal pending
            pending, reason = self._attempt(pending, refused)
            if pending:
                raise _TryAgain(f"{len(pending):,} documents to write: {reason}")

        self._patiently(once)
        return refused

    def _patiently(self, once: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            stop=tenacity.stop_after_delay(self._config.retry_seconds),
            wait=tenacity.wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
            sleep=self._sleep,
            before_sleep=self._before_sleep,
            reraise=True,
        )
        try:
            return retrying(once)
        except _TryAgain as error:
            raise ElasticsearchUnavailable(
                f"{error} after {self._config.retry_seconds:.0f} s. Nothing is lost: when the "
                f"cluster is well again, run again; what is written already stays as it is."
            ) from error

    def _no_answer(self, error: TransportError) -> str:
        """Why there was no answer, when another try may have one."""
        refused = not_trusted(error, self._config)
        if refused is not None:
            raise refused from None
        return f"no answer ({type(error).__name__})"

    def _fatal(self, error: ApiError) -> RuntimeError:
        status = error.meta.status
        if isinstance(error, UnsupportedProductError):
            why = "is no Elasticsearch, or a proxy takes its X-Elastic-Product header away"
        elif status in (401, 403):
            return denied(error, self._config, "nothing can be written")
        else:
            why = f"answers {status}{error_type(error)}"
        return RequestRefused(
            f"{', '.join(self._config.urls)} {why}; nothing can be written. Check the URL and "
            f"what stands between; then run again."
        )

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self.counts.retries += 1
        now = time.monotonic()
        if now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            error = state.outcome.exception() if state.outcome else None
            _LOG.warning(
                "Elasticsearch at %s: %s; trying again for up to %.0f s more",
                ", ".join(self._config.urls),
                error,
                max(0.0, self._config.retry_seconds - (state.seconds_since_start or 0.0)),
            )

    def _attempt(
        self, documents: list[Document], refused: list[Refused]
    ) -> tuple[list[Document], str]:
        """Send documents once; returns those to send again, and why."""
        started = time.monotonic()
        self.counts.requests += 1
        try:
            # The client takes encoded lines as they are, whatever its annotation says.
            lines: list[Any] = [x for doc in documents for x in (doc.action, doc.body) if x]
            response = self.client.bulk(operations=lines, filter_path=NEEDED)
        except ApiError as error:
            return self._whole_request_failed(documents, refused, error)
        except TransportError as error:
            return documents, self._no_answer(error)
        self.counts.milliseconds.append(round((time.monotonic() - started) * 1000))
        return self._sort_out(documents, response["items"], refused)

    def _whole_request_failed(
        self, documents: list[Document], refused: list[Refused], error: ApiError
    ) -> tuple[list[Document], str]:
        status = error.meta.status
        if status in RETRIED:
            return documents, f"status {status}"
        if status not in SPLIT:
            raise self._fatal(error) from None
        if len(documents) == 1:
            refused.append(Refused(documents[0], f"status_{status}", str(error.message)[:500]))
            return [], ""
        if status == 413:  # the limit may be a proxy's; later requests keep below it at once
            size = sum(document.size for document in documents)
            self._batch_bytes = max(1, min(self._batch_bytes, size // 2))
        middle = len(documents) // 2
        first, why = self._attempt(documents[:middle], refused)
        second, also = self._attempt(documents[middle:], refused)
        return first + second, why or also

    def _sort_out(
        self, documents: list[Document], items: list[Any], refused: list[Refused]
    ) -> tuple[list[Document], str]:
        again: list[Document] = []
        why = ""
        for document, item in zip(documents, items, strict=True):
            (result,) = item.values()
            status, error = result["status"], result.get("error", {})
            if status < 300:
                self.counts.written += 1
            elif status == 409:
                self.counts.superseded += 1
            elif status == 404 and not error:
                pass  # a delete of what is gone already
            elif status in (401, 403):
                raise AccessDenied(
                    f"Elasticsearch refuses to write to {document.index} with status {status}: "
                    f"{_reason(error)}. Nothing more is written; give the API key or user the "
                    f"privilege (or lift the block), and run again."
                )
            elif status in RETRIED:
                again.append(document)
                why = f"status {status}, {error.get('type')}"
            else:
                refused.append(Refused(document, str(error.get("type")), _reason(error)))
        return again, why


def _reason(error: dict[str, Any]) -> str:
    cause = error.get("caused_by", {}).get("reason")
    return f"{error.get('reason')}" + (f" (because: {cause})" if cause else "")


def batches(documents: list[Document], batch_bytes: int) -> Iterator[list[Document]]:
    """Cut documents into requests of at most ``batch_bytes``, each of one at least."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        if batch and size + document.size > batch_bytes:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += document.size
    if batch:
        yield batch
