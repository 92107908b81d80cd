"""Erasure: a tenant's rows removed, or a user taken out of them, everywhere below an output."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from adtally.io.dead_letter_search import LetterSearch
from adtally.io.files import atomic_write, delete, join, leftovers, list_paths, read_bytes
from adtally.io.logs import absolute
from adtally.io.manifest import MANIFEST_NAME, read_manifest, write_run
from adtally.io.views import write_views
from adtally.pipelines import erase_places as places
from adtally.pipelines.job import ConfigError
from adtally.pipelines.requests import pii_for
from adtally.transforms.forget import SECRET_BYTES, Person, Plan, Tokens
from adtally.transforms.mapping import Mapping, identity_mapping
from adtally.transforms.rules.config import read_rules
from adtally.transforms.uniques import UNIQUES_K

if TYPE_CHECKING:
    from adtally.io.elasticsearch import ElasticsearchConfig

PENDING: Final = "pending"
"""Suffix of the note of an erasure under way: it holds the secret of its tokens, and its plan."""


class ErasureIncomplete(RuntimeError):
    """Something of the subject is there again, or still."""


@dataclass(frozen=True)
class Request:
    """What to erase; see ``adtally erase --help``.

    Attributes:
        output: address of the output.
        advertiser: the tenant; with ``user``, only that tenant's events of the user.
        user: as records name it, not its pseudonym.
        mapping: how records became events, to read dead letters.
        alerts: files and folders of alerts.
        elasticsearch: where documents are; None leaves them.
        pii_key_file: where the key of pseudonyms is now, if not where the output says.
        rules: file of rules, if not the output's.
    """

    output: str
    advertiser: str | None = None
    user: str | None = None
    mapping: Mapping = field(default_factory=identity_mapping)
    alerts: tuple[str, ...] = ()
    elasticsearch: ElasticsearchConfig | None = None
    pii_key_file: str | None = None
    rules: str | None = None

    @property
    def name(self) -> str:
        return self.user if self.user is not None else self.advertiser or ""


@dataclass(frozen=True)
class Erased:
    """What was found, or taken out, by place; the address of the record; and temporary files that
    something writes just now, or wrote until less than an hour ago."""

    found: dict[str, Counter[str]]
    record: str = ""
    unsearched: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        return not any(self.found.values())


class _Pending(msgspec.Struct):
    """An erasure that has begun: kept until it is complete, so a second try goes on alike."""

    subject: str
    salt: str
    secret: str
    windows: list[tuple[str, int]] = []
    addresses: list[tuple[str, int, str]] = []
    hashes: list[tuple[int, int]] = []

    @property
    def plan(self) -> Plan:
        return Plan(set(self.windows), set(self.addresses), dict(self.hashes))


def look(request: Request, tell: places.Tell) -> Erased:
    """What an erasure would find, without changing anything.

    Raises:
        as :func:`erase`.
    """
    erasure = _Erasure(request, tell)
    return Erased(erasure.everywhere(write=False))


def erase(request: Request, tell: places.Tell) -> Erased:
    """Take a tenant, or a user, out of an output, and look again whether anything is left.

    Each file is replaced whole, so a run that is killed leaves old and new ones; the same again
    goes on with the same tokens, and completes it.

    Raises:
        ConfigError: it is no output, or the request cannot be meant.
        PiiError: the key of pseudonyms is not there, so nobody can say what the user is called.
        UnreadableFile: a file cannot be searched.
        ErasureIncomplete: something was written meanwhile.
    """
    erasure = _Erasure(request, tell)
    with erasure.pending():
        found = erasure.everywhere(write=True)
        erasure.renew_views(found)
        left = erasure.everywhere(write=False)
        if any(left.values()):
            raise ErasureIncomplete(
                f"after everything was erased there was more: {_said(left)}. Something still "
                f"writes: keep the subject out at the source, let its open windows end, and run "
                f"the same command again; it goes on where this one ended."
            )
        record = erasure.record(found)
    return Erased(found, record, tuple(leftovers(erasure.output, 0)))


def _said(left: dict[str, Counter[str]]) -> str:
    return ", ".join(
        f"{count} {what} in {place}"
        for place, counts in left.items()
        for what, count in counts.items()
        if what != "files"
    )


class _Erasure:
    def __init__(self, request: Request, tell: places.Tell) -> None:
        self._request = request
        self._tell = tell
        self.output = absolute(request.output).rstrip("/")
        known = read_manifest(self.output)
        if known is None:
            raise ConfigError(
                f"{self.output} has no {MANIFEST_NAME}; it is no output of adtally. Give the "
                f"folder that 'adtally backfill' or 'adtally stream' wrote."
            )
        if not request.name:
            raise ConfigError("an empty name stands for nobody; give --advertiser or --user.")
        self._known = known
        self._window_ms = known["window_seconds"] * 1000
        pii = pii_for(None, request.pii_key_file, known)
        self._stored = None if request.user is None else pii.stored_user(request.user)
        self._allow = None
        file = request.rules or known.get("rules", {}).get("file", "")
        if request.user is not None and pii.plain and file:
            ruleset = read_rules(file)
            self._allow = ruleset if ruleset.allows else None
        self._path, self._note = self._begun()
        self._plan = self._note.plan

    @property
    def tokens(self) -> Tokens:
        return Tokens(bytes.fromhex(self._note.secret))

    def _begun(self) -> tuple[str, _Pending]:
        """The note of an earlier try for the same subject, or a new one, not written yet."""
        pattern = join(self.output, "runs", f"{places.RECORD_PREFIX}*.{PENDING}")
        for path in list_paths(pattern):
            note = msgspec.json.decode(read_bytes(path), type=_Pending)
            if note.subject == self._subject(note.salt):
                return path, note
        salt = os.urandom(16).hex()
        note = _Pending(self._subject(salt), salt, os.urandom(SECRET_BYTES).hex())
        path = join(self.output, "runs", f"{places.RECORD_PREFIX}{uuid.uuid4().hex}.{PENDING}")
        return path, note

    def _subject(self, salt: str) -> str:
        """A name for the subject in records: slow to guess (RFC 7914), and other each time."""
        what = msgspec.json.encode([self._request.advertiser, self._request.user])
        digest = hashlib.scrypt(what, salt=bytes.fromhex(salt), n=1 << 14, r=8, p=1, dklen=16)
        return digest.hex()

    @contextlib.contextmanager
    def pending(self) -> Iterator[None]:
        """What a second try needs is there until the first one is complete."""
        if self._person is not None:
            self._look_ahead()
            note = self._note
            note.windows, note.addresses = sorted(self._plan.windows), sorted(self._plan.addresses)
            note.hashes = sorted(self._plan.hashes.items())
            with atomic_write(self._path) as file:
                file.write(msgspec.json.encode(note))
        yield
        if self._person is not None:
            delete([self._path])

    @property
    def _person(self) -> Person | None:
        if self._stored is None:
            return None
        return Person(self._stored, self._request.advertiser)

    def _look_ahead(self) -> None:
        """Add what the log holds now to the plan."""
        if self._person is not None:
            found = places.planned(
                self.output, self._person, self.tokens, self._window_ms, self._tell
            )
            self._plan.add(found)
            if self._request.elasticsearch is not None:  # documents are found by their windows
                self._plan.windows |= places.counted_windows(self.output, self._person, self._tell)

    def everywhere(self, write: bool) -> dict[str, Counter[str]]:
        """All places, one after the other; the log last but for what names inputs."""
        request, person = self._request, self._person
        if not write:
            self._look_ahead()
        found: dict[str, Counter[str]] = {}
        if request.elasticsearch is not None:
            self._tell("elasticsearch", 0, 1)
            found["elasticsearch"] = self._documents(request.elasticsearch, write)
            self._tell("elasticsearch", 1, 1)
        users = tuple(name for name in (request.user, self._stored) if name)
        search = LetterSearch(request.advertiser, tuple(dict.fromkeys(users)), request.mapping)
        found |= places.letters(self.output, search, write, self._tell)
        found["alerts"] = (
            places.alerts(
                request.alerts, request.advertiser, self._stored, self._plan, write, self._tell
            )
            if self._stored or request.user is None
            else Counter()
        )
        found["unfinished"] = places.unfinished(self.output, write)
        found["runs"] = places.runs(self.output, users or (request.name,), write, self._tell)
        if person is not None:
            found |= places.person_rows(
                self.output,
                person,
                self._plan,
                self.tokens,
                window_ms=self._window_ms,
                uniques_k=self._known.get("uniques_k", UNIQUES_K),
                allow=self._allow,
                write=write,
                tell=self._tell,
            )
        elif request.user is None:
            found |= places.tenant_rows(self.output, request.name, write, self._tell)
        return found

    def _documents(self, config: ElasticsearchConfig, write: bool) -> Counter[str]:
        from adtally.pipelines import erase_documents

        person, known = self._person, self._known
        if person is not None:
            seconds = {known["window_seconds"], *known.get("rollup_seconds", ())}
            k = known.get("uniques_k", UNIQUES_K)
            return erase_documents.person_documents(
                config, person, self._plan, self.tokens, sorted(seconds), k, write
            )
        if self._request.user is not None:
            return Counter()  # no user is stored
        return erase_documents.tenant_documents(config, self._request.name, write)

    def renew_views(self, found: dict[str, Counter[str]]) -> None:
        """Kinds that have no files any more have to be empty views."""
        changed = [kind for kind, counts in found.items() if counts["files"]]
        if all(list_paths(join(self.output, kind, "**")) for kind in changed):
            return
        known = self._known
        lateness = known["allowed_lateness_seconds"]
        write_views(self.output, known["window_seconds"], lateness, known["dimensions"])

    def record(self, found: dict[str, Counter[str]]) -> str:
        """Leave a record that an erasure was made, which names nobody; returns its address."""
        request = self._request
        content: dict[str, Any] = {
            "kind": "erasure",
            "erased_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "subject_type": "advertiser" if request.user is None else "user",
            "of_one_advertiser": request.user is not None and request.advertiser is not None,
            "subject_hash": self._note.subject,
            "salt": self._note.salt,
            "hash": "scrypt n=16384 r=8 p=1, of the JSON [advertiser, user]",
            "elasticsearch": request.elasticsearch is not None,
            "alerts": len(request.alerts),
            "found": {kind: dict(counts) for kind, counts in found.items() if counts},
            "looked_again": "nothing left",
        }
        name = self._path.rsplit("/", 1)[-1].removesuffix(f".{PENDING}")
        return write_run(self.output, name, content)
