"""A real PostgreSQL server on this machine, from the installed package; its own cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import Final

import psycopg

from adtally.runners.local.service import MissingSystemPart, Service, call

_INSTALLED: Final = Path("/usr/lib/postgresql")
_USER: Final = "adtally"


def programs() -> Path:
    """The folder of ``initdb`` and ``postgres``: of the newest version where there are several.

    Raises:
        MissingSystemPart: naming what to install.
    """
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(
        (folder for folder in _INSTALLED.glob("*/bin") if (folder / "initdb").exists()),
        key=lambda folder: float(folder.parent.name),
    )
    if not found:
        raise MissingSystemPart(
            "PostgreSQL on this machine needs initdb and postgres. "
            "On Debian: apt-get install postgresql"
        )
    return found[-1]


class PostgresServer(Service):
    """One server. ``fsync`` is off: its data goes with it."""

    name = "postgres"

    def _as_user(self) -> list[str]:
        """What runs a program as another user, for root: PostgreSQL refuses to be run by it."""
        if os.geteuid() != 0:
            return []
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
        self.data.mkdir(parents=True, exist_ok=True)
        for path in (self.data, *self.data.glob("cluster")):
            os.chown(path, user.pw_uid, user.pw_gid)
        return [
            "setpriv",
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
            "--",
        ]

    def command(self) -> list[str]:
        folder = programs()
        cluster = self.data / "cluster"
        user = self._as_user()
        if not (cluster / "PG_VERSION").exists():
            options = ["--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--locale=C"]
            call([*user, str(folder / "initdb"), *options, "--no-sync", "-D", str(cluster)])
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
        }
        given = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [*user, str(folder / "postgres"), "-D", str(cluster), *given]

    def folder(self) -> Path:
        return self.data  # what it is started in may be closed to its user

    @property
    def url(self) -> str:
        """Of a database, for SQLAlchemy: its name is to be added."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/"

    def healthy(self) -> bool:
        try:
            psycopg.connect(
                f"{self.url.replace('+psycopg', '')}postgres", connect_timeout=2
            ).close()
        except psycopg.Error:
            return False
        return True

    def end(self) -> None:
        """End it without waiting for its clients."""
        self._end(signal.SIGINT)
