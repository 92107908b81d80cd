"""Forgetting a user: rows that say the same to every count and rule, and no longer who it was.

Pure functions on tables. ``docs/decisions/0022-erasure.md`` says why each column is as it is.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import pyarrow as pa

from adtally.transforms.rules.ruleset import ALLOWED, Ruleset

SECRET_BYTES: Final = 32
TOKEN_BYTES: Final = 12
TOKEN_PREFIX: Final = "erased-"
"""What replaces a user or an address says so, and is no address."""

BLANKED: Final = ("user_agent", "url", "extra")
"""Columns that no tally reads, and that may say who it was: they become null."""

LEAST: Final = -(1 << 63)
MOST: Final = (1 << 63) - 1
_PLACE = ("source", "position", "record_index")
NEEDED: Final = (
    *("advertiser_id", "event_type", "event_id", "occurred_at", "user_id", "ip", "content_hash"),
    *_PLACE,
)
"""Columns of the log that a plan is made of."""


@dataclass(frozen=True)
class Person:
    """Whom to forget.

    Attributes:
        user: as the log stores it.
        advertiser: only this one's events; None for all.
    """

    user: str
    advertiser: str | None = None


@dataclass(frozen=True)
class Tokens:
    """What replaces users, addresses and hashes: keyed, so that equal things stay equal.

    Once the secret is gone nobody can tell what a token stood for.
    """

    secret: bytes

    def user(self, text: str) -> str:
        return self._token(text, b"user")

    def address(self, text: str) -> str:
        return self._token(text, b"ip")

    def between(self, value: int, least: int = LEAST, most: int = MOST) -> int:
        """Another 64-bit hash for a hash, from ``least`` to ``most``."""
        digest = self._digest(value.to_bytes(8, "little", signed=True), b"hash", 16)
        return least + int.from_bytes(digest, "little") % (most - least + 1)

    def _token(self, text: str, kind: bytes) -> str:
        return TOKEN_PREFIX + self._digest(text.encode(), kind, TOKEN_BYTES).hex()

    def _digest(self, data: bytes, kind: bytes, size: int) -> bytes:
        return hashlib.blake2b(data, digest_size=size, key=self.secret, person=kind).digest()


@dataclass
class Plan:
    """What has to be known of the whole log before the first row of it changes.

    Attributes:
        windows: (advertiser, start of the base window, ms) with events of the person.
        addresses: of their clicks: (advertiser, start of the base window, ms, address). Rules
            count clicks by address, so all clicks of these get the same token.
        hashes: ``content_hash`` to what replaces it, where its place among others counts.
    """

    windows: set[tuple[str, int]] = field(default_factory=set)
    addresses: set[tuple[str, int, str]] = field(default_factory=set)
    hashes: dict[int, int] = field(default_factory=dict)

    def add(self, other: Plan) -> None:
        """Join another plan; what this one says of a hash stands."""
        self.windows |= other.windows
        self.addresses |= other.addresses
        self.hashes = {**other.hashes, **self.hashes}


def is_theirs(person: Person) -> pl.Expr:
    """Whether an event is the person's."""
    theirs = pl.col("user_id") == person.user
    if person.advertiser is not None:
        theirs &= pl.col("advertiser_id") == person.advertiser
    return theirs.fill_null(False)


def window_start(window_ms: int) -> pl.Expr:
    """Start of the base window of an event, in milliseconds."""
    return pl.col("occurred_at").dt.epoch("ms") // window_ms * window_ms


def plan(theirs: pl.DataFrame, copies: pl.DataFrame, window_ms: int, tokens: Tokens) -> Plan:
    """What has to be kept equal.

    Args:
        theirs: the person's events, with the columns ``NEEDED``.
        copies: events of others with the type, id, advertiser and moment of one of theirs.
        window_ms: the base window.
        tokens: gives the new hashes.
    """
    start = window_start(window_ms).alias("window")
    clicks = theirs.filter((pl.col("event_type") == "click") & pl.col("ip").is_not_null())
    return Plan(
        set(theirs.select("advertiser_id", start).unique().iter_rows()),
        set(clicks.select("advertiser_id", start, "ip").unique().iter_rows()),
        _hashes(theirs, copies, tokens),
    )


def _hashes(theirs: pl.DataFrame, copies: pl.DataFrame, tokens: Tokens) -> dict[int, int]:
    """New hashes for those whose order decides: which copy counts, which click was first.

    That is among their events of an advertiser and a moment, and copies of one of these. A new hash
    lies between the middles of the gaps to its neighbours, so the order stays.
    """
    moment = ["advertiser_id", "occurred_at"]
    identity = [*moment, "event_type", "event_id"]
    own = theirs.select(*moment, "content_hash").unique()
    groups = own.filter(pl.len().over(moment) > 1).group_by(moment).agg("content_hash")
    lists: list[list[int]] = groups["content_hash"].to_list()
    # The same row of the log twice is no copy: it has the same place.
    rivals = copies.join(theirs, on=_PLACE, how="anti").select(*identity, "content_hash").unique()
    if rivals.height:
        names = theirs.select(*identity, "content_hash").unique()
        mixed = pl.concat([rivals, names]).join(rivals, on=identity, how="semi")
        lists += (
            mixed.group_by(identity).agg(pl.col("content_hash").unique())["content_hash"].to_list()
        )
    mine = set(own["content_hash"].to_list())
    bounds: dict[int, tuple[int, int]] = {}
    for group in lists:
        for value, least, most in _gaps(sorted(set(group))):
            if value in mine:
                low, high = bounds.get(value, (LEAST, MOST))
                bounds[value] = max(low, least), min(high, most)
    return {value: tokens.between(value, *limits) for value, limits in bounds.items()}


def _gaps(ordered: list[int]) -> Iterator[tuple[int, int, int]]:
    """Each value with the range that is nearer to it than to its neighbours."""
    middles = [(low + high) // 2 for low, high in itertools.pairwise(ordered)]
    for at, value in enumerate(ordered):
        least = middles[at - 1] + 1 if at else LEAST
        yield value, least, middles[at] if at < len(middles) else MOST


@dataclass(frozen=True)
class Forgotten:
    """A table without the person; ``rows`` were theirs, ``shared`` are clicks of others."""

    table: pa.Table
    rows: int
    shared: int


def forget_events(
    events: pa.Table,
    person: Person,
    known: Plan,
    tokens: Tokens,
    window_ms: int,
    allow: Ruleset | None = None,
) -> Forgotten:
    """Events (of the log, or late ones) without the person; other columns and rows stay.

    Their user and addresses become tokens, ``content_hash`` another one, ``BLANKED`` null. Clicks
    of others from an address that the person clicked from, within the same base window and at the
    same advertiser, get the address's token as well: rules count by address.

    Args:
        events: with the columns ``NEEDED``.
        person: whom.
        known: of the whole log.
        tokens: what replaces what.
        window_ms: the base window.
        allow: has users and addresses that no rule judges; rows that lose theirs are marked.
    """
    frame = pl.DataFrame(pl.from_arrow(events))
    marks = frame.select(mine=is_theirs(person), shared=_shares(frame, known, window_ms))
    mine = marks["mine"]
    shared = marks["shared"] & ~mine & ~frame["ip"].str.starts_with(TOKEN_PREFIX).fill_null(True)
    touched = mine | shared
    if not touched.any():
        return Forgotten(events, 0, 0)
    addresses = _replaced(frame["ip"], touched, tokens.address)
    users = _replaced(frame["user_id"], mine, tokens.user)
    hashes = _replaced(
        frame["content_hash"], mine, lambda old: known.hashes.get(old, tokens.between(old))
    )
    changed = {"ip": addresses, "user_id": users, "content_hash": hashes}
    for name in BLANKED:
        if name in frame.columns:
            changed[name] = frame.select(pl.when(~mine).then(pl.col(name)).alias(name))[name]
    if allow is not None and "ivt_reasons" in frame.columns:
        changed["ivt_reasons"] = _marked(frame, touched & allow.allowed(frame))
    return Forgotten(_with(events, changed), int(mine.sum()), int(shared.sum()))


def _shares(frame: pl.DataFrame, known: Plan, window_ms: int) -> pl.Series:
    """Clicks of the addresses in a plan."""
    keys = {"advertiser_id": pl.String, "window": pl.Int64, "ip": pl.String}
    wanted = pl.DataFrame(list(known.addresses), schema=keys, orient="row")
    clicks = frame.select(
        *("advertiser_id", "ip", "event_type", window_start(window_ms).alias("window"))
    )
    found = clicks.join(
        wanted.with_columns(hit=True), on=list(keys), how="left", maintain_order="left"
    )
    return found.select(pl.col("hit").fill_null(False) & (pl.col("event_type") == "click"))["hit"]


def _replaced(values: pl.Series, where: pl.Series, new: Any) -> pl.Series:
    """Each distinct value of some rows replaced; nulls stay."""
    distinct = values.filter(where).unique().drop_nulls()
    table = pl.DataFrame(
        {
            "old": distinct,
            "new": pl.Series([new(value) for value in distinct], dtype=distinct.dtype),
        },
    )
    rows = pl.DataFrame({"old": values, "where": where})
    joined = rows.join(table, on="old", how="left", maintain_order="left")
    return joined.select(
        pl.when("where").then(pl.col("new")).otherwise(pl.col("old")).alias(values.name)
    )[values.name]


def _marked(frame: pl.DataFrame, allowed: pl.Series) -> pl.Series:
    """``ivt_reasons`` with ``ALLOWED`` where it was the user or the address that told so."""
    reasons = pl.col("ivt_reasons").fill_null([])
    added = pl.concat_list(reasons, pl.lit([ALLOWED])).list.unique(maintain_order=True)
    return frame.select(
        pl.when(pl.lit(allowed)).then(added).otherwise(pl.col("ivt_reasons")).alias("ivt_reasons")
    )["ivt_reasons"]


def _with(table: pa.Table, columns: dict[str, pl.Series]) -> pa.Table:
    """A table with some columns replaced, in its own schema."""
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        kind = table.schema.field(at)
        table = table.set_column(
            at, kind, values.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(kind.type)
        )
    return table
