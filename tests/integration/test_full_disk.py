"""A disk that is full: the run fails and says so, nothing half-written is seen, a second completes.

The disk is a file system of some kB in a mount namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import sql_oracle, streams
from tests.integration.test_object_storage import run

SCRIPT = """
set -e
mount -t tmpfs -o size=160k tmpfs "$SMALL"
"$@" > first.txt 2>&1 && exit 3
cp -r "$OUTPUT" left
mount -o remount,size=64m "$SMALL"
"$@" > second.txt 2>&1
cp -r "$OUTPUT" copied
"""


@pytest.mark.parametrize("small", ["output", "scratch"])
def test_a_full_disk_fails_the_run_and_a_second_completes_it(tmp_path: Path, small: str) -> None:
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    run("generate", "--events", "3000", "--seed", "9", "--hours", "2", "--output", str(tmp_path))
    folders = {name: tmp_path / name for name in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir()
    output = folders["output"] / "out"
    command = [
        *("unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"),
        *(sys.executable, "-m", "adtally.pipelines", "backfill"),
        *("--input", str(tmp_path / "logs"), "--output", str(output)),
    ]
    environment = {
        **os.environ,
        "SMALL": str(folders[small]),
        "OUTPUT": str(output),
        "TMPDIR": str(folders["scratch"]),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    first = (tmp_path / "first.txt").read_text()
    assert done.returncode == 0, first + (tmp_path / "second.txt").read_text()
    assert "No space left on device" in first
    assert f"scratch folder ({folders['scratch']}, set by TMPDIR) is full" in first
    assert "the same command again completes it" in first
    assert list(tmp_path.glob("left/**/.*.tmp")) == []
    for path in tmp_path.glob("left/**/*.parquet"):
        pq.read_table(path)  # what is there is whole
    sql = streams.oracle(tmp_path / "logs")
    expected = sql_oracle.summaries(sql, 60)
    assert expected
    assert streams.stored(tmp_path / "copied") == expected
