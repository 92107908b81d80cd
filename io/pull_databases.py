"""Databases of tenants: which is whose, how it is reached, and what may be said of it."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

DIALECTS: Final = ("sqlite", "postgresql")
PLACE: Final = "{advertiser}"
DEFAULT: Final = f"sqlite:///pulled/{PLACE}.db"

WAIT_SECONDS: Final = 10
"""For a connection, for a lock that another holds, and for a server that says nothing."""

STATEMENT_SECONDS: Final = 300
"""Of one statement; some seconds are usual for the largest."""

_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)


class DatabaseConfigError(ValueError):
    """Which databases to fill cannot be told; never holds a secret."""


def safe_name(advertiser_id: str) -> str:
    """A name for files, databases and schemas: 63 characters at most, of ``a-z 0-9 _ - .``.

    An id that is such a name already (48 characters, no dot) stays as it is. Of any other one, some
    readable characters are kept and 128 bits of its SHA-256 follow after a dot, so no two ids share
    a name, on disks that take ``A`` for ``a`` neither.
    """
    if _PLAIN.fullmatch(advertiser_id):
        return advertiser_id
    readable = re.sub(r"[^a-z0-9]+", "_", advertiser_id[:60].lower())[:30].strip("_") or "id"
    digest = hashlib.sha256(advertiser_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{readable}.{digest}"


@dataclass(frozen=True)
class Target:
    """One tenant's database.

    Attributes:
        url: with its password, so never shown; see :meth:`shown`.
        schema: in PostgreSQL; empty for the database's own.
        secrets: what must not be seen in a message.
    """

    url: sa.URL = field(repr=False)
    schema: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def dialect(self) -> str:
        return self.url.get_backend_name()

    @property
    def server(self) -> str:
        """What this database shares with others: those of one server can fail together."""
        if self.dialect == "sqlite":
            return "sqlite"
        return f"{self.url.host}:{self.url.port}"

    def shown(self) -> str:
        """The address, without password and query."""
        text = self.url.set(query={}).render_as_string(hide_password=True)
        return f"{text} schema {self.schema}" if self.schema else text

    def redacted(self, text: str) -> str:
        """A message without secrets."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


@dataclass(frozen=True)
class Databases:
    """Which database is whose.

    Args:
        template: URL with ``{advertiser}`` in it, for advertisers that are not ``named``; None
            where there is no database for others.
        schema: in PostgreSQL, may have ``{advertiser}`` in it too.
        named: URLs by advertiser.
        create: make databases that a PostgreSQL server lacks.
        environment: what ``${NAME}`` in URLs stands for: plain text of a part, or a whole URL.

    Raises:
        DatabaseConfigError: a URL cannot work.
    """

    template: str | None = field(default=DEFAULT, repr=False)
    schema: str = ""
    named: Mapping[str, str] = field(default_factory=dict, repr=False)
    create: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def __post_init__(self) -> None:
        if self.template is not None:
            self._target(self.template, "an advertiser", "--database")
        for advertiser, url in self.named.items():
            self._target(url, advertiser, f"the database of {advertiser!r}")

    @property
    def tells_apart(self) -> bool:
        """Whether the template gives each advertiser its own."""
        return self.template is not None and PLACE in self.template + self.schema

    def of(self, advertiser_id: str) -> Target | None:
        """The database of an advertiser; None where it has none."""
        url = self.named.get(advertiser_id, self.template)
        if url is None:
            return None
        return self._target(url, advertiser_id, f"the database of {advertiser_id!r}")

    def existing(self) -> list[Path]:
        """Files of SQLite that the template may have made; of a server nothing is known."""
        if not self.tells_apart or not str(self.template).startswith("sqlite"):
            return []
        target = self._target(str(self.template), "*", "--database", name="\0")
        folder, _, name = str(target.url.database).rpartition("/")
        if "\0" in folder or name.count("\0") != 1:
            return []
        before, after = name.split("\0")
        where = Path(folder or ".")
        if not where.is_dir():
            return []
        return sorted(
            path
            for path in where.iterdir()
            if path.name.startswith(before) and path.name.endswith(after) and path.is_file()
        )

    def _target(self, text: str, advertiser_id: str, what: str, name: str | None = None) -> Target:
        name = name or safe_name(advertiser_id)
        secrets: list[str] = []

        def value(match: re.Match[str]) -> str:
            found = self.environment.get(match[1])
            if found is None:
                raise DatabaseConfigError(
                    f"{what} names ${{{match[1]}}}, which is not in the environment; set it."
                )
            secrets.append(found)
            return found if match[0] == text else quote(found, safe="")

        try:
            url = sa.make_url(_VARIABLE.sub(value, text).replace(PLACE, name))
            driver = url.get_dialect()
        except (ArgumentError, NoSuchModuleError, ValueError):
            raise DatabaseConfigError(
                f"{what} is no URL of a database that SQLAlchemy knows (it is not repeated, as it "
                f"may hold a password). Write sqlite:///FOLDER/{PLACE}.db or "
                f"postgresql+psycopg://USER:${{PASSWORD}}@HOST/{PLACE}."
            ) from None
        if driver.name not in DIALECTS:
            raise DatabaseConfigError(
                f"{what} is of {driver.name}, whose upserts differ; {' and '.join(DIALECTS)} work."
            )
        if driver.name == "sqlite" and (self.schema or url.database in (None, "", ":memory:")):
            raise DatabaseConfigError(
                f"{what} is SQLite {'which has no schemas' if self.schema else 'without a file'}; "
                f"write sqlite:///FOLDER/{PLACE}.db, and --schema for PostgreSQL only."
            )
        if driver.name == "postgresql" and driver.driver != "psycopg":
            url = url.set(drivername="postgresql+psycopg")
        secrets += [url.password] if url.password else []
        secrets += [str(v) for key, v in url.query.items() if _SECRET.search(key)]
        schema = self.schema.replace(PLACE, name)
        return Target(url, schema, tuple(secret for secret in secrets if secret))


def read_databases(path: str) -> dict[str, str]:
    """URLs by advertiser: ``ADVERTISER,URL`` lines of a .csv, or ``[databases]`` of a TOML file.

    Raises:
        DatabaseConfigError: it cannot be read, or an advertiser is there twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if not path.endswith(".csv"):
            found = tomllib.loads(text).get("databases")
            if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
                raise DatabaseConfigError(
                    f"{path} has no table [databases] of lines ADVERTISER = 'URL'; add it."
                )
            return found
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        # What a decoder says may quote a line, and with it a password.
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise DatabaseConfigError(f"{path} cannot be read: {reason}.") from None
    named: dict[str, str] = {}
    for number, row in _lines(text):
        if len(row) != 2 or row[0] in named:
            problem = "is there twice" if len(row) == 2 else "is no ADVERTISER,URL"
            raise DatabaseConfigError(f"{path} line {number} {problem}; nothing is pulled.")
        named[row[0]] = row[1].strip()
    return named


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines())
    for row in reader:
        if row and row != ["advertiser_id", "url"]:
            yield reader.line_num, row


def open_engine(target: Target, shared: int = 0) -> sa.Engine:
    """An engine that waits for nothing longer than :data:`WAIT_SECONDS`.

    Args:
        target: where to.
        shared: connections to keep open, where many tenants are in one database.
    """
    arguments: dict[str, Any] = {}
    if target.dialect == "sqlite":
        Path(str(target.url.database)).parent.mkdir(parents=True, exist_ok=True)
        arguments = {"timeout": WAIT_SECONDS, "check_same_thread": False}
    else:
        limits = {
            "statement_timeout": STATEMENT_SECONDS * 1000,
            "lock_timeout": WAIT_SECONDS * 1000,
            "idle_in_transaction_session_timeout": STATEMENT_SECONDS * 1000,
        }
        given = str(target.url.query.get("options", ""))
        arguments = {
            "connect_timeout": WAIT_SECONDS,
            "tcp_user_timeout": WAIT_SECONDS * 1000,
            "keepalives_idle": WAIT_SECONDS,
            "application_name": "adtally pull",
            "options": " ".join([*(f"-c {k}={v}" for k, v in limits.items()), given]).strip(),
        }
    pool: dict[str, Any] = {"poolclass": sa.NullPool}
    if shared and target.dialect != "sqlite":
        pool = {"pool_size": shared, "max_overflow": -1, "pool_timeout": WAIT_SECONDS}
        pool["pool_pre_ping"] = True
    engine = sa.create_engine(target.url, connect_args=arguments, hide_parameters=True, **pool)
    if target.dialect == "sqlite":
        _own_transactions(engine)
    return engine


def _own_transactions(engine: sa.Engine) -> None:
    """Let transactions begin when SQLAlchemy says so, and as writers: sqlite3 begins them late."""

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def create_database(target: Target) -> None:
    """Make a database of PostgreSQL, unless it is there."""
    server = sa.create_engine(
        target.url.set(database="postgres"),
        connect_args={"connect_timeout": WAIT_SECONDS},
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
    )
    name = str(target.url.database)
    with server.connect() as connection:
        found = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(found, {"name": name}).scalar() is None:
            quoted = server.dialect.identifier_preparer.quote_identifier(name)
            connection.exec_driver_sql(
                f"CREATE DATABASE {quoted} ENCODING 'UTF8' TEMPLATE template0"
            )
