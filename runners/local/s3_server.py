"""An S3 server on this machine: moto's, in memory."""

from __future__ import annotations

import importlib.util
import sys

from adtally.runners.local.service import MissingSystemPart, Service, answers


class S3Server(Service):
    """One S3 server; a context manager that starts and stops it. What it holds ends with it."""

    name = "s3"

    def command(self) -> list[str]:
        if importlib.util.find_spec("moto") is None:
            raise MissingSystemPart("S3 on this machine needs moto: pip install 'moto[server]'")
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def healthy(self) -> bool:
        return answers(f"{self.url}/moto-api/")
