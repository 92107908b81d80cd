"""A Cloud Storage server on this machine: an emulator, in memory."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

from adtally.runners.local.service import MissingSystemPart, Service, answers

BUCKET: Final = "my-bucket"
"""The bucket that it begins with."""


class GcsServer(Service):
    """One server; a context manager that starts and stops it. What it holds ends with it.

    Google's client, and so Beam, goes to it where ``STORAGE_EMULATOR_HOST`` is its ``url``.
    """

    name = "gcs"

    def command(self) -> list[str]:
        if importlib.util.find_spec("gcp_storage_emulator") is None:
            raise MissingSystemPart(
                "Cloud Storage on this machine needs an emulator: pip install gcp-storage-emulator"
            )
        return [
            *(sys.executable, "-m", "gcp_storage_emulator", "start"),
            *("--host=127.0.0.1", f"--port={self.port}", "--in-memory"),
            f"--default-bucket={BUCKET}",
        ]

    def healthy(self) -> bool:
        return answers(f"{self.url}/storage/v1/b/{BUCKET}")
