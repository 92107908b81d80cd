"""``python -m benchmarks.object_storage``: a backfill from and to S3 and GCS, beside the disk.

The servers are those of ``adtally local``, on this machine, in memory: what is seen is what the
clients cost, without a network. Prints a table for docs/object-storage.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.usage import Usage
from tests.stores import STORES

EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "300000"))
FILES_PER_HOUR = (1, 20)


def main() -> None:
    print("| files | storage | wall s | client CPU s | client peak MB |")
    print("|--:|---|--:|--:|--:|")
    for per_hour in FILES_PER_HOUR:
        with tempfile.TemporaryDirectory(prefix="adtally-storage-") as scratch:
            folder = Path(scratch)
            made = ["--events", str(EVENTS), "--seed", "1", "--files-per-hour", str(per_hour)]
            _adtally("generate", *made, "--output", scratch)
            logs = sorted(path for path in (folder / "logs").rglob("*") if path.is_file())
            _row(len(logs), "disk", str(folder / "logs"), str(folder / "out"), (), {})
            for scheme, kind in STORES.items():
                store = kind()
                bucket = store.make_bucket()
                for path in logs:
                    store.put(bucket, f"in/{path.relative_to(folder)}", path.read_bytes())
                base = f"{scheme}://{bucket}"
                reached = (store.arguments(store.url), store.environment(store.url))
                _row(len(logs), f"{scheme}://", f"{base}/in/", f"{base}/out", *reached)
                store.stop()


def _row(
    files: int,
    storage: str,
    source: str,
    output: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    begun = time.monotonic()
    command = ("backfill", "--quiet", "--input", source, "--output", output, *arguments)
    used = _adtally(*command, environment=environment)
    wall = time.monotonic() - begun
    print(
        f"| {files} | {storage} | {wall:.1f} | {used.cpu:.1f} | {used.peak_mb:,.0f} |", flush=True
    )


def _adtally(*arguments: str, environment: dict[str, str] | None = None) -> Usage:
    process = subprocess.Popen(
        [sys.executable, "-m", "adtally.pipelines", *arguments],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with Usage(process.pid) as used:
        if process.wait():
            raise RuntimeError(f"adtally {' '.join(arguments)} ended with {process.returncode}")
    return used


if __name__ == "__main__":
    main()
