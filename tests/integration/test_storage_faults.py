"""Uploads that break on their way, between adtally and a real server.

Nothing half-written is ever seen; what passes is waited for, and what does not fails the run, which
a second run completes.
"""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adtally.io import gcs
from adtally.io.files import atomic_write
from adtally.pipelines.cli import cli
from tests.fault_proxy import Cut, Fault, FaultProxy, Lost, Refused, Request
from tests.integration.test_object_storage import rows, run
from tests.stores import ObjectStore, save

LARGE = random.Random(1).randbytes(20 << 20)
"""More than both clients send in one request."""

UPLOADS = ("PUT", "POST")


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not recover is given up soon."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(gcs, "RETRY_SECONDS", 0.5)


def first(times: int, fault: Fault, of: Callable[[Request], bool]) -> Callable[[Request], Any]:
    """Breaks the first requests of a kind, and then no more."""
    lock, left = threading.Lock(), [times]

    def judge(request: Request) -> Fault | None:
        with lock:
            if left[0] and of(request):
                left[0] -= 1
                return fault
        return None

    return judge


def is_part(request: Request) -> bool:
    """One of the requests that carry a large object."""
    return request.method == "PUT" and request.size > 1 << 20


def is_upload(request: Request) -> bool:
    """One that writes something, large or small."""
    return request.method in UPLOADS and request.size > 0 and "?delete" not in request.path


@pytest.mark.parametrize(
    ("times", "fault", "of"),
    [
        (1, Cut(), is_part),
        (1, Lost(), is_part),
        (3, Refused(), is_upload),
    ],
    ids=["cut in a part", "answer to a part lost", "503"],
)
def test_what_passes_is_waited_for(
    store: ObjectStore,
    proxy: FaultProxy,
    times: int,
    fault: Fault,
    of: Callable[[Request], bool],
) -> None:
    bucket = store.make_bucket()
    proxy.fault = first(times, fault, of)
    with atomic_write(f"{store.scheme}://{bucket}/large") as file:
        file.write(LARGE)
    assert len(proxy.faults) == times
    assert store.objects(bucket) == {"large": LARGE}
    assert store.unfinished(bucket) == []


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_an_upload_that_the_store_forgot_begins_again(
    store: ObjectStore, proxy: FaultProxy
) -> None:
    bucket = store.make_bucket()
    proxy.fault = first(1, Refused(410, b"gone"), is_part)
    with atomic_write(f"gs://{bucket}/large") as file:
        file.write(LARGE)
    assert len(proxy.faults) == 1
    assert store.objects(bucket) == {"large": LARGE}


@pytest.mark.parametrize("fault", [Cut(), Refused()], ids=["cut", "503"])
def test_what_does_not_pass_leaves_what_was_there(
    store: ObjectStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    impatient(monkeypatch)
    bucket = store.make_bucket()
    store.put(bucket, "old", b"before")
    proxy.fault = lambda request: fault if is_part(request) else None
    for name in ("old", "new"):
        with (
            pytest.raises(OSError, match=f"{bucket}/{name} was not written: "),
            atomic_write(f"{store.scheme}://{bucket}/{name}") as file,
        ):
            file.write(LARGE)
    assert proxy.faults
    assert store.objects(bucket) == {"old": b"before"}
    assert store.unfinished(bucket) == []


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Logs whose dead letters are so large that they go up in parts, and the outcome."""
    folder = tmp_path_factory.mktemp("faults")
    run("generate", "--events", "600", "--seed", "6", "--hours", "2", "--output", str(folder))
    noise = random.Random(2)
    lines = [base64.b64encode(noise.randbytes(100_000)) for _ in range(88)]
    (folder / "logs" / "noise.jsonl").write_bytes(b"\n".join(lines))
    run("backfill", "--input", str(folder / "logs"), "--output", str(folder / "out"))
    return folder / "logs", rows(folder / "out")


def test_a_run_that_fails_is_completed_by_a_second(
    tmp_path: Path,
    store: ObjectStore,
    proxy: FaultProxy,
    local: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs, expected = local
    bucket = store.make_bucket()
    out = f"{store.scheme}://{bucket}/a"
    command = ["backfill", "--input", str(logs), "--output", out, *store.arguments(proxy.url)]

    # The dead letters, which go up in parts, never arrive.
    proxy.fault = lambda request: Cut() if is_part(request) else None
    with monkeypatch.context() as patched:
        impatient(patched)
        done = CliRunner().invoke(cli, command)
    assert done.exit_code == 1
    assert f"{bucket}/a/dead-letters/" in done.output
    assert "was not written: " in done.output
    left = store.objects(bucket)
    assert not [key for key in left if "dead-letters" in key or "/runs/" in key]
    assert store.unfinished(bucket) == []

    # What breaks now, passes.
    cut = first(1, Cut(), is_part)
    small = first(1, Cut(), lambda request: is_upload(request) and "events" in request.path)
    busy = first(3, Refused(), is_upload)
    proxy.faults.clear()
    proxy.fault = lambda request: cut(request) or small(request) or busy(request)
    run(*command)
    assert len(proxy.faults) >= 4
    whole = store.objects(bucket)
    assert rows(save(whole, tmp_path) / "a") == expected
    assert store.unfinished(bucket) == []
    # What the first run left was whole: the second wrote the same.
    assert [key for key in left if key.endswith(".parquet") and left[key] != whole[key]] == []
