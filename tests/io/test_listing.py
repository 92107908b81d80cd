"""Thousands of objects are listed by the page, with no call for each."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adtally.io.logs import list_files
from adtally.runners.direct import use_storage
from adtally.runners.local.service import answers, free_port
from benchmarks import listing
from tests import streams
from tests.fault_proxy import FaultProxy
from tests.stores import ObjectStore

OBJECTS = 3_500


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an S3 server that begins with thousands of objects; uploading them takes long."""
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.listing", "serve", str(port)],
        env={**os.environ, "ADTALLY_BENCH_OBJECTS": str(OBJECTS)},
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        streams.until(lambda: answers(f"{url}/moto-api/"), "the server answers")
        yield url
    finally:
        server.kill()
        server.wait()
        use_storage([])


def test_objects_of_s3_are_listed_by_the_thousand(crowded: str) -> None:
    with FaultProxy(crowded) as proxy:
        use_storage([f"--s3_endpoint_url={proxy.url}"])
        files, _ = list_files([f"s3://{listing.BUCKET}/in/"])
        assert len(files) == OBJECTS
        assert {(file.stored_bytes, file.compression) for file in files} == {(20, "gzip")}
        assert [(x.method, "list-type=2" in x.path) for x in proxy.seen] == [("GET", True)] * 4

        proxy.seen.clear()  # the prefix before a pattern narrows what is looked through
        files, _ = list_files([f"s3://{listing.BUCKET}/in/2026-03-01/07/*.gz"])
        assert len(files) == 146
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_objects_of_gcs_need_no_call_each(store: ObjectStore, proxy: FaultProxy) -> None:
    bucket = store.make_bucket()
    connection = http.client.HTTPConnection(urlsplit(store.url).netloc)
    for number in range(1_500):
        query = f"uploadType=media&name=in%2F{number:05}.jsonl"
        connection.request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", b"{}\n")
        connection.getresponse().read()
    connection.close()
    files, _ = list_files([f"gs://{bucket}/in/"])
    assert len(files) == 1_500
    assert len(proxy.seen) <= 2
