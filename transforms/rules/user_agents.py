"""Lists of user agents: robots, and browsers.

Robots come from the package ``crawler-user-agents`` (MIT, regular expressions that are kept up by
their users) and from files in the format of the IAB/ABC International Spiders and Bots List, which
is licensed and therefore brought by the user. Both are matched whole columns at a time.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

PACKAGE: Final = "crawler-user-agents"
_APPLICATIONS: Final = r"^(Mozilla|Opera|Dalvik)/|\bCFNetwork/|\bDarwin/"
"""What browsers, web views and the HTTP stacks of Android and Apple begin with or contain."""


class ListError(ValueError):
    """A list cannot be read; the message says where, why, and what to do."""


@dataclass(frozen=True)
class Entry:
    """A line of an IAB list.

    Attributes:
        pattern: lower-case text.
        at_start: the user agent has to begin with it; otherwise it may be anywhere.
        exceptions: lower-case texts; a user agent that has one is no match.
    """

    pattern: str
    at_start: bool = False
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class UserAgents:
    """A list of user agents, matched without regard to case."""

    entries: tuple[Entry, ...] = ()

    def match(self, user_agents: pl.Series) -> pl.Series:
        """Which user agents (null counts as "no") an entry matches."""
        lower = user_agents.fill_null("").str.to_lowercase()
        plain = [each.pattern for each in self.entries if not each.at_start and not each.exceptions]
        found = lower.str.contains_any(plain) if plain else lower.is_in([])
        starts = [re.escape(e.pattern) for e in self.entries if e.at_start and not e.exceptions]
        if starts:
            found |= lower.str.contains(f"^(?:{'|'.join(starts)})")
        for entry in self.entries:
            if entry.exceptions:
                has = lower.str.starts_with(entry.pattern)
                if not entry.at_start:
                    has = lower.str.contains(entry.pattern, literal=True)
                found |= has & ~lower.str.contains_any(list(entry.exceptions))
        return found


def parse_iab(lines: Iterable[str], name: str, kind: str) -> UserAgents:
    """A list in the IAB's format; ``#`` begins a comment.

    Robots (``exclude``): ``pattern|active|exceptions|two-pass|impact|start-of-string``, of which
    the fourth and fifth are not used. Browsers (``include``): ``pattern|active|start-of-string``.

    Args:
        lines: of the file.
        name: of the file, for errors.
        kind: ``exclude`` or ``include``.

    Raises:
        ListError: a line is neither; says which.
    """
    entries = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        fields = text.split("|")
        least = 6 if kind == "exclude" else 3
        start = fields[least - 1].strip() if len(fields) >= least else ""
        if start not in ("0", "1") or fields[1].strip() not in ("0", "1") or not fields[0].strip():
            shape = "pattern|active|exceptions|two-pass|impact|start-of-string"
            wanted = shape if kind == "exclude" else "pattern|active|start-of-string"
            raise ListError(
                f"{name}, line {number}: {text!r} is no entry of an IAB list of this kind "
                f"({wanted}, flags 0 or 1); events would be judged by half a list. Correct the "
                f"line, or begin it with #."
            )
        exceptions = fields[2].split(",") if kind == "exclude" else []
        if fields[1].strip() == "1":
            kept = tuple(each.strip().lower() for each in exceptions if each.strip())
            entries.append(Entry(fields[0].strip().lower(), start == "1", kept))
    if not entries:
        raise ListError(
            f"{name} has no active entry; no event would ever match. Is it the right file?"
        )
    return UserAgents(tuple(entries))


def known_crawlers(user_agents: pl.Series) -> pl.Series:
    """Which user agents the package's patterns match; null counts as "no"."""
    return _crawlers(user_agents.fill_null(""))


class _Remembered:
    """Judges each text once, as long as ``most`` are not passed: batches share their browsers."""

    def __init__(self, judge: Callable[[pl.Series], pl.Series], most: int) -> None:
        self._judge = judge
        self._most = most
        self._known: dict[str, bool] = {}
        self._lock = threading.Lock()

    def __call__(self, texts: pl.Series) -> pl.Series:
        asked = texts.to_list()
        with self._lock:
            new = {text for text in asked if text not in self._known}
            if len(self._known) + len(new) > self._most:
                self._known.clear()
                new = set(asked)
            if new:
                unknown = pl.Series(list(new), dtype=pl.String)
                self._known.update(zip(unknown, self._judge(unknown), strict=True))
            return pl.Series([self._known[text] for text in asked], dtype=pl.Boolean)


def crawlers_version() -> str:
    """The package's version."""
    return importlib.metadata.version(PACKAGE)


@functools.cache
def _union() -> str:
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA

    patterns: Sequence[str] = [each["pattern"] for each in CRAWLER_USER_AGENTS_DATA]
    return "|".join(f"(?:{pattern})" for pattern in patterns)


_crawlers: Final = _Remembered(lambda texts: texts.str.contains(_union()), 100_000)


def applications(user_agents: pl.Series) -> pl.Series:
    """Which user agents look like a browser or an app; null counts as "no"."""
    return user_agents.fill_null("").str.contains(_APPLICATIONS)
