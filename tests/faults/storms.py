"""Faults on the way to Elasticsearch, Kinesis and S3: answers that real servers give under stress.

Each takes its place in the proxy before the server for some time, and then goes.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.fault_proxy import (
    Answer,
    Changed,
    Cut,
    Dribbled,
    Fault,
    FaultProxy,
    Lost,
    Refused,
    Request,
    Truncated,
    none,
)
from tests.faults.stage import Stage

STORM_SECONDS = 60.0
Judge = Callable[[Request], Fault | None]
Ask = Callable[[bytes], Answer]

_BUSY = {"error": {"type": "es_rejected_execution_exception", "reason": "rejected"}, "status": 429}
_JSON = ("Content-Type", "application/json")
_PRODUCT = ("X-Elastic-Product", "Elasticsearch")
FROM_NODE = Refused(429, json.dumps(_BUSY).encode(), (_JSON, _PRODUCT))
TOLD_WHEN = Refused(429, json.dumps(_BUSY).encode(), (_JSON, _PRODUCT, ("Retry-After", "7")))
FROM_PROXY = Refused(429, b"<html>too many requests</html>", (("Content-Type", "text/html"),))
BAD_GATEWAY = Refused(502, b"<html>bad gateway</html>", (("Content-Type", "text/html"),))
UNAVAILABLE = Refused(503, b"", ())

_AMZ = ("Content-Type", "application/x-amz-json-1.1")


def _kinesis_error(status: int, kind: str) -> Refused:
    return Refused(status, json.dumps({"__type": kind, "message": kind}).encode(), (_AMZ,))


THROTTLED = tuple(
    _kinesis_error(400, kind)
    for kind in (
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "ThrottlingException",
    )
)
EXPIRED = _kinesis_error(400, "ExpiredIteratorException")
INTERNAL = _kinesis_error(500, "InternalFailure")


@contextmanager
def storm(proxy: FaultProxy, judge: Judge) -> Iterator[None]:
    """Let a proxy break what a judge says, for the time of the block."""
    proxy.fault = judge
    try:
        yield
    finally:
        proxy.fault = none


def _for_a_minute(proxy: FaultProxy, judge: Judge) -> float:
    before = len(proxy.faults)
    with storm(proxy, judge):
        time.sleep(STORM_SECONDS)
    assert len(proxy.faults) > before, "nothing came by that could be broken"
    return STORM_SECONDS


def some(rng: random.Random, share: float, faults: list[Fault]) -> Judge:
    """Breaks a share of all requests, in one of some ways."""
    lock = threading.Lock()

    def judge(request: Request) -> Fault | None:
        with lock:
            return rng.choice(faults) if rng.random() < share else None

    return judge


def is_bulk(request: Request) -> bool:
    return request.method in ("PUT", "POST") and "/_bulk" in request.path


def refuse_bulks(stage: Stage, rng: random.Random) -> float:
    """429 for every bulk request: by the node, with and without Retry-After, and by a proxy."""
    kinds = [FROM_NODE, TOLD_WHEN, FROM_PROXY]
    return _for_a_minute(
        stage.before_node, lambda request: rng.choice(kinds) if is_bulk(request) else None
    )


def refuse_items(stage: Stage, rng: random.Random) -> float:
    """429 and 503 for items of a bulk request that is answered with 200; nine of ten."""
    return _for_a_minute(stage.before_node, items(rng, busy=0.9, broken=0.0))


def partly_broken(stage: Stage, rng: random.Random) -> float:
    """Of the items of a bulk request some get 429 or 503, and some a field that the mapping does
    not take, so that the node refuses them for good."""
    return _for_a_minute(stage.before_node, items(rng, busy=0.3, broken=0.02))


def items(rng: random.Random, busy: float, broken: float) -> Judge:
    """A share of the items of bulk requests is too much for now, and a share refused for good."""
    lock = threading.Lock()

    def fate() -> str:
        with lock:
            drawn = rng.random()
        return "busy" if drawn < busy else "broken" if drawn < busy + broken else ""

    def exchange(body: bytes, ask: Ask) -> Answer:
        lines = body.split(b"\n")[:-1]
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        fates = [fate() for _ in pairs]
        sent = b"".join(
            action + b"\n" + (_spoilt(source) if what == "broken" else source) + b"\n"
            for (action, source), what in zip(pairs, fates, strict=True)
            if what != "busy"
        )
        status, headers, answer = ask(sent) if sent else (200, [_JSON, _PRODUCT], b'{"items":[]}')
        if status != 200:
            return status, headers, answer
        answered = iter(json.loads(answer)["items"])
        items = [_refused(rng) if what == "busy" else next(answered) for what in fates]
        return status, headers, json.dumps({"errors": True, "items": items}).encode()

    return lambda request: Changed(exchange) if is_bulk(request) else None


def _spoilt(source: bytes) -> bytes:
    document: dict[str, Any] = json.loads(source)
    document["window_seconds"] = "a minute"
    return json.dumps(document).encode()


def _refused(rng: random.Random) -> dict[str, Any]:
    status = rng.choice((429, 503))
    error = {"type": "es_rejected_execution_exception", "reason": "rejected"}
    return {"index": {"status": status, "error": error}}


def break_elasticsearch(stage: Stage, rng: random.Random) -> float:
    """Half of all requests: 5xx, cut off, answer lost or cut or dribbling."""
    kinds: list[Fault] = [BAD_GATEWAY, UNAVAILABLE, Cut(0.5), Lost(), Truncated(), Dribbled(8)]
    return _for_a_minute(stage.before_node, some(rng, 0.5, kinds))


def throttle_kinesis(stage: Stage, rng: random.Random) -> float:
    """Every call of the reader."""
    return _for_a_minute(stage.before_kinesis, lambda request: rng.choice(THROTTLED))


def break_kinesis(stage: Stage, rng: random.Random) -> float:
    """Half of all calls of the reader: 5xx, cut off, answer lost or cut or dribbling."""
    kinds: list[Fault] = [INTERNAL, UNAVAILABLE, Cut(0.5), Lost(), Truncated(), Dribbled(8)]
    return _for_a_minute(stage.before_kinesis, some(rng, 0.5, kinds))


def expire_iterators(stage: Stage, rng: random.Random) -> float:
    """Every second GetRecords finds its iterator expired."""
    asked = "x-amz-target"
    return _for_a_minute(
        stage.before_kinesis,
        lambda request: (
            EXPIRED
            if request.headers.get(asked, "").endswith("GetRecords") and rng.random() < 0.5
            else None
        ),
    )


def slow_s3_down(stage: Stage, rng: random.Random) -> float:
    """Every request is refused: 503 SlowDown, or 500."""
    kinds = [Refused(), Refused(500)]
    return _for_a_minute(stage.before_store, lambda request: rng.choice(kinds))


def break_s3(stage: Stage, rng: random.Random) -> float:
    """Half of all requests: 5xx, cut off, answer lost or cut."""
    kinds: list[Fault] = [Refused(), Refused(500), Cut(0.5), Lost(), Truncated()]
    return _for_a_minute(stage.before_store, some(rng, 0.5, kinds))
