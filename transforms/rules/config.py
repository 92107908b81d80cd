"""A file of rules: thresholds, lists, quotas, and what is different for single advertisers.

``docs/rules.md`` explains it with examples.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Final

import msgspec
from apache_beam.io.filesystem import BeamIOError

from adtally.io.files import join, read_bytes
from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.base import RuleError
from adtally.transforms.rules.lists import Lists, read_networks, read_user_agents
from adtally.transforms.rules.quotas import QUOTA_MEASURES, Quotas, check_quota
from adtally.transforms.rules.ruleset import (
    EVENT_RULES,
    HISTORY_RULES,
    SERIES_RULES,
    WINDOW_RULES,
    AdvertiserRules,
    Ruleset,
)
from adtally.transforms.rules.season import Season, read_season

_WITH_THRESHOLD: Final[tuple[Any, ...]] = (*WINDOW_RULES, *HISTORY_RULES, *SERIES_RULES)
_RULES: Final[tuple[Any, ...]] = (*EVENT_RULES, *_WITH_THRESHOLD)
_KINDS: Final = {rule.NAME: rule for rule in _RULES}


class _ListFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    crawlers: bool = True
    robots: list[str] = []
    browsers: list[str] = []
    datacenters: list[str] = []
    season: str = ""


class _Advertiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    off: list[str] = []
    thresholds: dict[str, int | float] = {}
    allow_ips: list[str] = []
    allow_users: list[str] = []
    quotas: dict[str, int] = {}


def read_rules(path: str) -> Ruleset:
    """Read a file of rules (TOML), and the lists that it names.

    Raises:
        RuleError: something in it cannot be used; names line, field and remedy.
        ListError: a list cannot be used.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, BeamIOError, ValueError) as error:  # ValueError: a scheme Beam does not know
        raise RuleError(f"rules {path!r} cannot be read: {error}. Correct the path.") from error
    return parse_rules(text, path)


def parse_rules(text: str, path: str = "rules.toml") -> Ruleset:
    """As :func:`read_rules`; lists are looked for beside ``path``."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{path} is not TOML: {error}; correct it there.") from error
    return _File(content, text, path).ruleset()


class _File:
    def __init__(self, content: dict[str, Any], text: str, path: str) -> None:
        self._content = content
        self._lines = _lines_of(text)
        self._path = path

    def ruleset(self) -> Ruleset:
        self._known((), self._content, ("rules", "lists", "advertisers", "quotas"))
        settings = self._table(("rules",))
        self._known(("rules",), settings, _KINDS)
        advertisers = {name: self._advertiser(name) for name in self._table(("advertisers",))}
        return Ruleset(
            event_rules=self._rules(EVENT_RULES),
            window_rules=self._rules(WINDOW_RULES),
            history_rules=self._rules(HISTORY_RULES),
            series_rules=self._rules(SERIES_RULES),
            lists=self._lists(),
            advertisers=advertisers,
            quotas=self._quotas(),
        )

    def _rules(self, kinds: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(rule for kind in kinds if (rule := self._rule(kind)) is not None)

    def _rule(self, kind: Any) -> Any:
        """A rule with its settings, or None where it is switched off."""
        at = ("rules", kind.NAME)
        given = self._table(at)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        self._known(at, given, ("enabled", *fields))
        enabled = given.get("enabled", True)
        if not isinstance(enabled, bool):
            raise self._wrong((*at, "enabled"), f"is {enabled!r}; write true or false")
        values = {name: value for name, value in given.items() if name != "enabled"}
        for name, value in list(values.items()):
            try:
                checked = msgspec.convert({name: value}, kind)  # its type, then its range
                values[name] = getattr(checked, name)
            except (msgspec.ValidationError, RuleError) as error:
                raise self._wrong((*at, name), f"is {value!r}: {error}") from error
        return kind(**values) if enabled else None

    def _lists(self) -> Lists:
        files = self._convert(("lists",), _ListFiles)
        robots, browsers, centres = (
            [self._beside(name) for name in names]
            for names in (files.robots, files.browsers, files.datacenters)
        )
        return Lists(
            crawlers=files.crawlers,
            robots=read_user_agents(robots, "exclude"),
            browsers=read_user_agents(browsers, "include") if browsers else None,
            datacenters=read_networks(centres),
            season=read_season(self._beside(files.season)) if files.season else Season(),
        )

    def _advertiser(self, name: str) -> AdvertiserRules:
        at = ("advertisers", name)
        given = self._convert(at, _Advertiser)
        self._known((*at, "off"), dict.fromkeys(given.off), _KINDS)
        judged = [rule.NAME for rule in _WITH_THRESHOLD]
        self._known((*at, "thresholds"), given.thresholds, judged)
        for rule, value in given.thresholds.items():
            try:
                msgspec.convert({"threshold": value}, _KINDS[rule])
            except (msgspec.ValidationError, RuleError) as error:
                raise self._wrong((*at, "thresholds", rule), str(error)) from error
        networks = set()
        for text in given.allow_ips:
            try:
                networks.add(network(text))
            except ValueError as error:
                raise self._wrong(
                    (*at, "allow_ips"), f"{error}; write a network such as 203.0.113.0/24"
                ) from error
        return AdvertiserRules(
            frozenset(given.off),
            dict(given.thresholds),
            Networks(frozenset(networks)),
            frozenset(given.allow_users),
        )

    def _quotas(self) -> Quotas:
        own = {
            name: given
            for name in self._table(("advertisers",))
            if (given := self._quota(("advertisers", name, "quotas")))
        }
        return Quotas(self._quota(("quotas",)), own)

    def _quota(self, at: tuple[str, ...]) -> dict[str, int]:
        given = self._table(at)
        self._known(at, given, QUOTA_MEASURES)
        for measure, value in given.items():
            try:
                check_quota(msgspec.convert(value, int))
            except (msgspec.ValidationError, RuleError) as error:
                raise self._wrong((*at, measure), f"is {value!r}: {error}") from error
        return dict(given)

    def _table(self, at: tuple[str, ...]) -> dict[str, Any]:
        found: Any = self._content
        for name in at:
            found = found.get(name, {})
            if not isinstance(found, dict):
                raise self._wrong(at, f"is {found!r}; it has to be a table")
        return found

    def _convert(self, at: tuple[str, ...], kind: Any) -> Any:
        table = self._table(at)
        self._known(at, table, kind.__struct_fields__)
        for name, value in table.items():
            try:
                msgspec.convert({name: value}, kind)
            except msgspec.ValidationError as error:
                raise self._wrong((*at, name), f"is {value!r}: {error}") from error
        return msgspec.convert(table, kind)

    def _known(self, at: tuple[str, ...], given: Mapping[str, Any], known: Iterable[str]) -> None:
        for name in given:
            if name not in known:
                raise self._wrong((*at, name), f"is not known; choose from {', '.join(known)}")

    def _wrong(self, at: tuple[str, ...], why: str) -> RuleError:
        line = next(
            (self._lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self._lines), 1
        )
        return RuleError(
            f"{self._path}, line {line}: {'.'.join(at)} {why.rstrip('.')}. Events would not be "
            f"judged as meant, so nothing was started."
        )

    def _beside(self, name: str) -> str:
        """A list's address: as it is, or relative to the folder of the file of rules."""
        if "://" in name or PurePath(name).is_absolute():
            return name
        folder, slash, _ = self._path.rpartition("/")
        return join(folder, name) if folder else slash + name


_HEADER: Final = re.compile(r"""^\s*\[\[?((?:[^"'\[\]]|"[^"]*"|'[^']*')+)\]\]?\s*(#.*)?$""")
_KEY: Final = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


def _lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table and key, for errors: TOML's parsers do not tell."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = path = _path_of(header[1])
        elif key := _KEY.match(line):
            path = (*table, *_path_of(key[1]))
        else:
            continue
        for end in range(1, len(path) + 1):
            lines.setdefault(path[:end], number)
    return lines


def _path_of(dotted: str) -> tuple[str, ...]:
    try:
        nested: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return (dotted,)
    path = []
    while isinstance(nested, dict):
        ((name, nested),) = nested.items()
        path.append(name)
    return tuple(path)
