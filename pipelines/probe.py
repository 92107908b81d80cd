"""Marker events: how long an event takes from the stream to a search, measured end to end."""

from __future__ import annotations

import datetime
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from elasticsearch import ApiError, Elasticsearch

from adtally.io.elasticsearch_client import ElasticsearchConfig

ADVERTISER: Final = "__probe__"
"""Advertiser of marker events; nobody else's may be called so."""

POLL_SECONDS: Final = 0.2
REMEMBERED: Final = 1_000
"""Probes that quantiles are of: at one a minute those of 17 hours."""

_CLOSED: Final = ("on_time", "late")


def marker(advertiser: str, template: str | None = None) -> tuple[bytes, int]:
    """A record of a marker event, and when it happened, in milliseconds since the epoch.

    Args:
        advertiser: whose event it is.
        template: a record of a mapping's own shape, with ``{id}`` and ``{time}`` where it has an
            id and a time (ISO 8601, UTC); None for a record that needs no mapping.
    """
    now = datetime.datetime.now(datetime.UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    at, name = now.isoformat(timespec="milliseconds"), f"probe-{uuid.uuid4().hex}"
    if template is not None:
        line = template.replace("{id}", name).replace("{time}", at).strip().encode()
    else:
        line = msgspec.json.encode(
            {
                "event_id": name,
                "event_type": "impression",
                "occurred_at": at,
                "advertiser_id": advertiser,
            }
        )
    return line, round(now.timestamp() * 1000)


@dataclass(frozen=True)
class Probe:
    """A way to send a marker, and where it should come out.

    Attributes:
        send: puts a record into the stream, and returns when the stream has it.
        client: of Elasticsearch.
        config: whose indices.
        closed: wait for the summary of a window that has closed, not for an early one.
        timeout_seconds: after which a marker is given up.
        advertiser: whose events markers are.
        template: see :func:`marker`.
    """

    send: Callable[[bytes], None]
    client: Elasticsearch
    config: ElasticsearchConfig
    closed: bool = False
    timeout_seconds: float = 120.0
    advertiser: str = ADVERTISER
    template: str | None = None

    def measure(self) -> float | None:
        """Send one marker; seconds until an ordinary search finds its summary, None if it did not.

        Raises:
            elasticsearch.ApiError, elasticsearch.TransportError: the search is refused, or nobody
                answers.
        """
        line, at_ms = marker(self.advertiser, self.template)
        begun = time.monotonic()
        self.send(line)
        while True:
            if self._found(at_ms):
                return time.monotonic() - begun
            if time.monotonic() - begun > self.timeout_seconds:
                return None
            time.sleep(POLL_SECONDS)

    def _found(self, at_ms: int) -> bool:
        """Whether a summary counts an event of the advertiser that is as new as the marker."""
        newer = {"gte": at_ms, "format": "epoch_millis"}
        filters: list[dict[str, Any]] = [
            {"term": {"advertiser_id": self.advertiser}},
            {"range": {"last_event_at": newer}},
        ]
        if self.closed:
            filters.append({"terms": {"pane_timing": list(_CLOSED)}})
        try:
            found = self.client.search(
                index=self.config.index_pattern("summaries"),
                routing=self.advertiser,
                size=0,
                track_total_hits=1,
                query={"bool": {"filter": filters}},
                allow_no_indices=True,
                ignore_unavailable=True,
            )
        except ApiError as error:
            if error.meta.status == 503:  # what an index that is being made answers
                return False
            raise
        return bool(found["hits"]["total"]["value"])


@dataclass
class Measured:
    """Probes so far.

    Attributes:
        seconds: of the last ones that were found.
        count: all that were found.
        total: seconds of these.
        lost: those that were not found in time.
        succeeded_at: when one was found last, seconds since the epoch.
    """

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    count: int = 0
    total: float = 0.0
    lost: int = 0
    succeeded_at: float = 0.0

    def add(self, seconds: float | None) -> None:
        """Note one."""
        if seconds is None:
            self.lost += 1
            return
        self.seconds.append(seconds)
        self.count += 1
        self.total += seconds
        self.succeeded_at = time.time()

    def quantile(self, share: float) -> float | None:
        """The value that this share of the last probes does not exceed."""
        if not self.seconds:
            return None
        if len(self.seconds) == 1:
            return self.seconds[0]
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return cuts[round(share * 100) - 1]

    def prometheus(self) -> str:
        """In Prometheus' text format."""
        name = "adtally_probe_seconds"
        lines = [
            f"# HELP {name} From a marker put into the stream to a search that finds its summary.",
            f"# TYPE {name} summary",
        ]
        for share in (0.5, 0.9, 0.99):
            value = self.quantile(share)
            if value is not None:
                lines.append(f'{name}{{quantile="{share}"}} {value!r}')
        lines += [
            f"{name}_sum {self.total!r}",
            f"{name}_count {self.count}",
            "# HELP adtally_probes_lost_total Markers that no search found in time.",
            "# TYPE adtally_probes_lost_total counter",
            f"adtally_probes_lost_total {self.lost}",
            "# HELP adtally_probe_success_timestamp_seconds When a marker was found last.",
            "# TYPE adtally_probe_success_timestamp_seconds gauge",
            f"adtally_probe_success_timestamp_seconds {self.succeeded_at!r}",
        ]
        return "\n".join(lines) + "\n"
