"""``python -m benchmarks.listing``: find 100,000 logs below a prefix of S3.

The server is moto's, on this machine, and is given the objects directly, as uploading so many would
take longer than all else. It would look through all of them for each page, so what it found is
kept; still, most of the wall time is its own. The client's processor time and memory count here.
Prints a table for docs/object-storage.md.
"""

from __future__ import annotations

import functools
import os
import resource
import subprocess
import sys
import time

from adtally.runners.local.kinesis_server import aws_client
from adtally.runners.local.service import free_port
from tests import streams

OBJECTS = int(os.environ.get("ADTALLY_BENCH_OBJECTS", "100000"))
BUCKET = "logs"
WAYS = ("nothing", "Beam", "adtally")


def main() -> None:
    os.environ |= streams.AWS
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.listing", "serve", str(port)])
    try:
        _wait(f"http://127.0.0.1:{port}")
        print(f"| {OBJECTS:,} objects | files found | wall s | client CPU s | client peak MB |")
        print("|---|--:|--:|--:|--:|")
        for way in WAYS:
            subprocess.run([sys.executable, "-m", "benchmarks.listing", way, str(port)], check=True)
    finally:
        server.terminate()
        server.wait()


def serve(port: int) -> None:
    """Serve a bucket of small objects, by hour and tenant."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for number in range(OBJECTS):
        key = f"in/2026-03-01/{number % 24:02}/tenant-{number // 24:05}.jsonl.gz"
        backend.put_object(BUCKET, key, b"x" * 20)
    backend.list_objects = functools.lru_cache(backend.list_objects)
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    while True:
        time.sleep(1)


def find(way: str, port: int) -> None:
    """List all, in one way, and print a row of the table."""
    from apache_beam.io.filesystems import FileSystems

    from adtally.io.logs import list_files
    from adtally.runners.direct import use_storage

    use_storage([f"--s3_endpoint_url=http://127.0.0.1:{port}"])
    begun, used = time.monotonic(), time.process_time()
    if way == "Beam":
        found = len(FileSystems.match([f"s3://{BUCKET}/in/**"])[0].metadata_list)
    elif way == "adtally":
        found = len(list_files([f"s3://{BUCKET}/in/"])[0])
    else:  # what the imports alone take
        found = 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {way} | {found:,} | {time.monotonic() - begun:.1f} "
        f"| {time.process_time() - used:.1f} | {peak:,.0f} |",
        flush=True,
    )


def _wait(url: str) -> None:
    client = aws_client("s3", url)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
            return
        except Exception:  # noqa: BLE001 - it is not there yet, whatever it says
            time.sleep(0.5)
    raise TimeoutError(f"no server at {url} after 300 s")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        find(sys.argv[1], int(sys.argv[2]))
