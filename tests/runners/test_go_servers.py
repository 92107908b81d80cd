"""The servers of this machine that are built with Go, where it is not, and where they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adtally.pipelines.local_cli import SERVERS, _possible
from adtally.runners.local import gcs_server, pubsub_server
from adtally.runners.local.service import MissingSystemPart
from adtally.runners.local.stack import PORTS

BUILT = {"gcs": gcs_server, "pubsub": pubsub_server}


@pytest.fixture
def _nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Go nor anything that it built."""
    monkeypatch.setenv("ADTALLY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("_nothing")
def test_without_go_the_other_servers_are_started() -> None:
    told: list[str] = []
    assert set(_possible(None, told.append)) == set(SERVERS) - set(BUILT)
    assert all(any(f"{name} is left out" in line for line in told) for name in BUILT)
    assert _possible("gcs,pubsub", told.append) == ("gcs", "pubsub")
    for server in BUILT.values():
        with pytest.raises(MissingSystemPart, match=r"needs Go 1\.21 or newer"):
            server.install()


@pytest.mark.usefixtures("_nothing")
@pytest.mark.parametrize("server", BUILT.values(), ids=list(BUILT))
def test_what_is_built_already_needs_no_go(server: Any) -> None:
    kept = server._cached()
    if server is pubsub_server:
        kept.mkdir(parents=True)
    else:
        kept.write_bytes(b"")
    assert server.missing() == ""
    assert str(server.install()).startswith(str(kept))


def test_the_command_line_and_the_stack_know_the_same_servers() -> None:
    assert set(SERVERS) == set(PORTS)
