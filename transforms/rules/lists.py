"""The lists that rules look things up in: read at start, fixed for a run, part of its version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apache_beam.io.filesystem import BeamIOError

from adtally.io.files import read_bytes
from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.season import Season
from adtally.transforms.rules.user_agents import (
    ListError,
    UserAgents,
    crawlers_version,
    parse_iab,
)


@dataclass(frozen=True)
class Lists:
    """What rules look things up in.

    Attributes:
        crawlers: whether the package ``crawler-user-agents`` counts.
        robots: further robots.
        browsers: what browsers look like; None to judge by what their names begin with.
        datacenters: networks that people do not browse from.
        season: of the day, that series are compared by.
    """

    crawlers: bool = True
    robots: UserAgents = UserAgents()
    browsers: UserAgents | None = None
    datacenters: Networks = Networks()
    season: Season = Season()

    @property
    def fingerprint(self) -> dict[str, object]:
        """Changes with any entry."""
        known: dict[str, object] = {
            "crawlers": crawlers_version() if self.crawlers else None,
            "robots": _digest(repr(each) for each in self.robots.entries),
            "browsers": self.browsers and _digest(repr(each) for each in self.browsers.entries),
            "datacenters": _digest(sorted(map(str, self.datacenters.networks))),
        }
        if self.season.fingerprint:
            known["season"] = self.season.fingerprint
        return known


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_user_agents(paths: Sequence[str], kind: str) -> UserAgents:
    """Lists in the IAB's format, one after the other; see :func:`parse_iab`.

    Raises:
        ListError: one cannot be read, or has a line that is no entry.
    """
    lists = [parse_iab(_lines(path), path, kind) for path in paths]
    return UserAgents(tuple(entry for one in lists for entry in one.entries))


def read_networks(paths: Sequence[str]) -> Networks:
    """Networks, one a line such as ``203.0.113.0/24``; ``#`` begins a comment.

    Raises:
        ListError: a file cannot be read, or has a line that is no network.
    """
    networks = set()
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                networks.add(network(text))
            except ValueError as error:
                raise ListError(
                    f"{path}, line {number}: {error}; events would be judged by half a list. "
                    f"Write a network such as 203.0.113.0/24 or 2001:db8::/32."
                ) from error
    return Networks(frozenset(networks))


def _lines(path: str) -> list[str]:
    try:
        return read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ListError(f"list {path!r} is not UTF-8 ({error}); convert it.") from error
    except (OSError, BeamIOError, ValueError) as error:  # ValueError: a scheme Beam does not know
        raise ListError(
            f"list {path!r} cannot be read ({error}); no event would match. Correct the path."
        ) from error
