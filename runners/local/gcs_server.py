"""A Google Cloud Storage server on this machine: fake-gcs-server, a Go program, in memory."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, Final

from adtally.runners.local.go_program import go_install
from adtally.runners.local.service import (
    MissingSystemPart,
    Service,
    answers,
    cache_folder,
)

VERSION: Final = "1.56.1"
_MODULE: Final = "github.com/fsouza/fake-gcs-server"
_LOG = logging.getLogger(__name__)


def missing() -> str:
    """What is missing for the server, in words; empty where nothing is."""
    if _cached(VERSION).is_file() or shutil.which("go"):
        return ""
    return (
        "Google Cloud Storage on this machine needs Go 1.21 or newer on the PATH, once, to build "
        "fake-gcs-server. Debian 12 has an older one: install Go's own release."
    )


def install(version: str = VERSION) -> Path:
    """Build the program with Go, once; returns it. Safe to repeat and to run twice at a time.

    Raises:
        MissingSystemPart: without Go, or where it cannot be built, with the end of what Go said.
    """
    target = _cached(version)
    if target.is_file():
        return target
    if missing():
        raise MissingSystemPart(missing())
    _LOG.info("building fake-gcs-server %s with Go, once; this takes some minutes", version)
    if said := go_install(_MODULE, version, target):
        raise MissingSystemPart(
            f"fake-gcs-server {version} could not be built, so there is no Google Cloud "
            f"Storage on this machine:\n{said}\nIt needs Go 1.21 or newer."
        )
    return target


def _cached(version: str = VERSION) -> Path:
    return cache_folder() / f"fake-gcs-server-{version}"


class GcsServer(Service):
    """One GCS server; a context manager that starts and stops it. What it holds ends with it."""

    name = "gcs"

    def command(self) -> list[str]:
        return [
            str(install()),
            "-backend=memory",
            "-scheme=http",
            "-host=127.0.0.1",
            f"-port={self.port}",
            f"-public-host=127.0.0.1:{self.port}",
            f"-external-url={self.url}",
            "-log-level=warn",
        ]

    def healthy(self) -> bool:
        return answers(f"{self.url}/_internal/healthcheck")

    def client(self) -> Any:
        """A client of Google's for this server, without credentials."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        return Client(
            project="local",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.url},
        )
