"""Who may see what: tokens in a file, each for all advertisers or for some."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from adtally.io.files import atomic_write
from adtally.io.secrets import warn_of_readers
from adtally.pipelines.job import ConfigError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Visitor:
    """Whoever asks.

    Attributes:
        name: of the token; empty where none is needed.
        advertisers: whose figures it may see; None for all.
    """

    name: str = ""
    advertisers: tuple[str, ...] | None = None


class Tokens:
    """Tokens of a file, read again when it changes: one that is taken out is refused from then on.

    The file holds no token, only SHA-256 of each::

        [tokens.anna]
        sha256 = "5e88..."

        [tokens.acme]
        sha256 = "2bb8..."
        advertisers = ["acme"]

    Raises:
        ConfigError: it cannot be read, or says something else.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._lock = Lock()
        self._seen: Any = None
        self._known: dict[str, Visitor] = {}
        warn_of_readers(path)
        self._refresh()

    def visitor(self, token: str) -> Visitor | None:
        """Whose token it is; None for nobody's."""
        with self._lock:
            self._refresh()
            known = dict(self._known)
        given = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        found = None
        for digest, visitor in known.items():  # all of them, whichever it is
            if hmac.compare_digest(digest, given):
                found = visitor
        return found

    def _refresh(self) -> None:
        try:
            seen = self._path.stat()
        except OSError as error:
            raise ConfigError(f"--tokens {self._path} cannot be read: {error}") from error
        identity = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
        if identity != self._seen:
            self._known = {one["sha256"]: _visitor(name, one) for name, one in _read(self._path)}
            self._seen = identity


def new_token(path: str, name: str, advertisers: Sequence[str]) -> str:
    """Make a token and add it to a file, which is made where there is none; returns the token.

    Raises:
        ConfigError: the file has one of that name, or the name has other signs than it may.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"token name {name!r} has other signs than letters, digits, '_' and '-', or more than "
            f"64; it is shown on pages and written into {path}."
        )
    file = Path(path).absolute()
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if before and any(name == known for known, _ in _read(file)):
        raise ConfigError(
            f"{path} has a token named {name!r} already; take it out, or use another name."
        )
    token = secrets.token_urlsafe(32)
    lines = [f"[tokens.{name}]", f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"']
    if advertisers:
        lines.append(f"advertisers = [{', '.join(map(_quoted, advertisers))}]")
    text = "\n".join([*([before.rstrip("\n"), ""] if before else []), *lines]) + "\n"
    with atomic_write(str(file)) as written:
        written.write(text.encode())
    file.chmod(0o600)
    return token


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--tokens {path} cannot be read: {error}") from error
    tokens = content.get("tokens")
    if set(content) != {"tokens"} or not isinstance(tokens, dict) or not tokens:
        raise ConfigError(
            f"--tokens {path} has no [tokens.NAME], or something else; 'adtally dashboard-token' "
            f"writes such files."
        )
    for name, one in tokens.items():
        _check(path, name, one)
    return list(tokens.items())


def _check(path: Path, name: str, one: Any) -> None:
    known = {"sha256", "advertisers"}
    if not isinstance(one, dict) or set(one) - known:
        raise ConfigError(
            f"--tokens {path}: [tokens.{name}] has other keys than sha256, advertisers."
        )
    if not isinstance(one.get("sha256"), str) or not _HASH.fullmatch(one["sha256"]):
        raise ConfigError(
            f"--tokens {path}: sha256 of [tokens.{name}] is not 64 hexadecimal digits; "
            f"'adtally dashboard-token' makes a token, and writes it."
        )
    whose = one.get("advertisers")
    if whose is not None and not (
        whose and isinstance(whose, list) and all(isinstance(x, str) and x for x in whose)
    ):
        raise ConfigError(
            f"--tokens {path}: advertisers of [tokens.{name}] is no list of ids; leave it out "
            f"for a token that sees all of them."
        )


def _visitor(name: str, one: dict[str, Any]) -> Visitor:
    whose = one.get("advertisers")
    return Visitor(name, None if whose is None else tuple(dict.fromkeys(whose)))


def _quoted(text: str) -> str:
    """As a basic string of TOML."""
    escaped = "".join(
        f"\\u{ord(sign):04x}" if sign in '"\\' or ord(sign) < 32 or ord(sign) == 127 else sign
        for sign in text
    )
    return f'"{escaped}"'
