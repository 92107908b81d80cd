"""Manifests: what was written comes back, and a damaged one is never taken for a new output."""

from __future__ import annotations

from pathlib import Path

import pytest

from adtally.io.manifest import (
    MANIFEST_NAME,
    ManifestError,
    read_manifest,
    read_run,
    write_manifest,
    write_run,
)


def test_settings_come_back_and_are_replaced_whole(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert read_manifest(output) is None
    write_manifest(output, {"window_seconds": 60, "dimensions": ["campaign_id"], "name": "é"})
    write_manifest(output, {"window_seconds": 10})
    assert read_manifest(output) == {"window_seconds": 10}
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_runs_are_kept_apart(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert read_run(output, "a") is None
    path = write_run(output, "a", {"events": 1 << 60})
    write_run(output, "b", {"events": 2})
    assert read_run(output, "a") == {"events": 1 << 60}
    assert Path(path) == tmp_path / "runs" / "a.json"
    assert read_manifest(output) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": "\xff"}', b"\xff", b"\0"])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(content)
    with pytest.raises(ManifestError) as raised:
        read_manifest(str(tmp_path))
    assert str(path) in str(raised.value)
