"""Which dead letters are about a tenant or a user: they hold records as they came, whole or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from adtally.io.dead_letters import DeadLetter, decode_line
from adtally.transforms.mapping import Mapping

LONG_NAME: Final = 8
"""Characters from which a user is looked for inside longer text as well: a shorter one, such as
``12``, is in half of all dates."""


@dataclass(frozen=True)
class LetterSearch:
    """Finds the letters of a tenant, of a user, or of a user at a tenant.

    A payload that is JSON tells by its fields: the tenant by those that the mapping reads, the user
    by any text that is the name (as a number by the mapping's fields only). What is no JSON, or has
    no such field, is searched as text for the name as a whole word.

    Attributes:
        advertiser: exact ``advertiser_id``; None for all.
        users: what one user is called: as it came, and as it is stored; empty for a whole tenant.
        mapping: how records become events.
    """

    advertiser: str | None
    users: tuple[str, ...]
    mapping: Mapping

    def finds(self, line: bytes) -> bool:
        """Whether a line of a file of dead letters is one.

        Raises:
            ValueError: it is no dead letter.
        """
        letter = decode_line(line)
        text = letter.payload_bytes().decode("utf-8", "replace")
        try:
            record = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            record = None
        if not isinstance(record, dict | list):
            record = None
        tenant = self.advertiser is None or self._of_tenant(letter, record, text)
        return tenant and (not self.users or self._of_user(letter, record, text))

    def _of_tenant(self, letter: DeadLetter, record: Any, text: str) -> bool:
        assert self.advertiser is not None
        names, constants = self._fields("advertiser_id")
        told = [_text(value) for key, value in _leaves(record) if key in names]
        if told:
            return self.advertiser in told
        return self.advertiser in constants or self._word(letter, text, (self.advertiser,))

    def _of_user(self, letter: DeadLetter, record: Any, text: str) -> bool:
        names, _ = self._fields("user_id")
        for key, value in _leaves(record):
            exact = isinstance(value, str) or key in names
            if exact and _text(value) in self.users:
                return True
        long = tuple(user for user in self.users if len(user) >= LONG_NAME)
        return self._word(letter, text, self.users if record is None else long)

    def _word(self, letter: DeadLetter, text: str, names: tuple[str, ...]) -> bool:
        long = (name for name in names if len(name) >= LONG_NAME)
        told = any(_pattern(name).search(letter.message) for name in long)
        return told or any(_pattern(name).search(text) for name in names)

    def _fields(self, field: str) -> tuple[frozenset[str], frozenset[str]]:
        return self._known[field]

    @cached_property
    def _known(self) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        return {field: _fields(self.mapping, field) for field in ("advertiser_id", "user_id")}


def _fields(mapping: Mapping, field: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the record's fields that an event's field comes from, and constants for it."""
    rules = [event.fields[field] for event in mapping.events if field in event.fields]
    names = {field}  # a document that an index refused has our own names
    for rule in rules:
        if rule.path:
            names.add(re.split(r"[.\[\]'\"]+", rule.path.rstrip("]'\""))[-1])
        elif rule.source:
            names |= {rule.source, rule.source.rsplit(".", 1)[-1]}
    constants = {text for rule in rules for text in (rule.constant, rule.default) if text}
    return frozenset(names), frozenset(constants)


def _leaves(record: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value that is no object, at any depth; of a list each member."""
    waiting: list[tuple[str, Any]] = [("", record)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, one) for one in value]
        elif value is not None:
            yield key, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pattern(name: str) -> re.Pattern[str]:
    """A name as a whole word, as it is or as JSON may write it."""
    return re.compile("|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in _spellings(name)))


def _spellings(name: str) -> Iterable[str]:
    plain, ascii_ = (json.dumps(name, ensure_ascii=flag)[1:-1] for flag in (False, True))
    return dict.fromkeys((name, plain, ascii_, plain.replace("/", "\\/")))
