"""The GCS server of this machine, where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from adtally.pipelines.local_cli import SERVERS, _possible
from adtally.runners.local import gcs_server
from adtally.runners.local.service import MissingSystemPart
from adtally.runners.local.stack import PORTS


def test_without_go_the_other_servers_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADTALLY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    told: list[str] = []
    assert set(_possible(None, told.append)) == set(SERVERS) - {"gcs"}
    assert "gcs is left out" in told[0]
    assert _possible("gcs", told.append) == ("gcs",)
    with pytest.raises(MissingSystemPart, match="needs Go"):
        gcs_server.install()
    monkeypatch.undo()
    assert set(SERVERS) == set(PORTS)


def test_what_is_built_already_needs_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADTALLY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / f"fake-gcs-server-{gcs_server.VERSION}").write_bytes(b"")
    assert gcs_server.missing() == ""
    assert gcs_server.install() == tmp_path / f"fake-gcs-server-{gcs_server.VERSION}"
