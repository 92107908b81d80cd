"""What is stored of addresses and users: as they came, cut short, or as pseudonyms."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl
import polars_hash as plh

from adtally.io import schema
from adtally.io.files import read_bytes
from adtally.io.secrets import warn_of_readers
from adtally.transforms.rules.base import by_distinct

Mode = Literal["keep", "truncate", "hash"]

KEPT_BITS: Final = {4: 24, 6: 48}
"""Of an address, by IP version: what Google Analytics kept when it was asked to mask addresses
("IP masking in Universal Analytics": the last octet of IPv4 and the last 80 bits of IPv6 go)."""

_KEPT_BITS_6TO4: Final = 16 + KEPT_BITS[4]
"""Of 2002::/16: its next 32 bits are a whole IPv4 address (RFC 3056, 2), which 48 would show."""

LEAST_KEY_BYTES: Final = 16
PSEUDONYM_BYTES: Final = 12
"""96 bits: among a billion users two share a pseudonym with a probability of 6 in 10^12."""


class PiiError(ValueError):
    """Pseudonyms cannot be made; the message names cause and remedy, and never the key."""


@dataclass(frozen=True)
class Pii:
    """How ``ip`` and ``user_id`` are stored, everywhere but in dead letters.

    ``truncate`` keeps the first 24 bits of an IPv4 address, 48 of an IPv6 one, 40 of 6to4; users,
    and addresses that are none, become null: nothing in them can be cut. ``hash`` makes pseudonyms
    by keyed BLAKE2b (RFC 7693), so that the same user is the same everywhere, and the key is needed
    to tell who.

    Attributes:
        mode: ``keep``, ``truncate`` or ``hash``.
        key_file: of the key; workers read it too, so it never is part of a job's description.
        key_id: a fingerprint of the key, which tells two keys apart.
    """

    mode: Mode = "keep"
    key_file: str = ""
    key_id: str = ""

    @classmethod
    def hashed(cls, key_file: str) -> Pii:
        """Pseudonyms with the key in a file.

        Raises:
            PiiError: it cannot be read, or is short enough to be guessed.
        """
        return cls("hash", key_file, _id(_key(key_file, _MAKE_ONE)))

    @property
    def fingerprint(self) -> dict[str, str]:
        """What must be equal in all runs into one output, or one user would be two."""
        return {"mode": self.mode, "key_id": self.key_id}

    @property
    def plain(self) -> bool:
        return self.mode == "keep"

    def check(self) -> None:
        """Make sure of the key.

        Raises:
            PiiError: it cannot be read, or is another one.
        """
        if self.mode == "hash":
            self._checked_key()

    def stored(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events with ``ip`` and ``user_id`` (text) as they are stored.

        ``content_hash`` becomes one of what is stored: that of the record as it came would tell
        whoever has the other fields, and tries all addresses, which one it was.

        Raises:
            PiiError: as :meth:`check`.
        """
        if self.plain:
            return events
        if self.mode == "truncate":
            addresses = by_distinct(events["ip"], _truncated)
            users = pl.repeat(None, events.height, eager=True, dtype=pl.String)
        else:
            key = self._checked_key()
            addresses = by_distinct(events["ip"], functools.partial(_pseudonyms, key, b"ip"))
            users = by_distinct(events["user_id"], functools.partial(_pseudonyms, key, b"user"))
        replaced = events.with_columns(addresses.alias("ip"), users.alias("user_id"))
        return replaced.with_columns(_content_hash(replaced))

    def stored_user(self, user: str) -> str | None:
        """What a user is called where it is stored; None where no user is.

        Raises:
            PiiError: as :meth:`check`.
        """
        if self.mode == "hash":
            return str(_pseudonyms(self._checked_key(), b"user", pl.Series([user])).item())
        return user if self.plain else None

    def _checked_key(self) -> bytes:
        key = _key(self.key_file, _BRING_BACK)
        if _id(key) != self.key_id:
            raise PiiError(
                f"the key in {self.key_file} is not the one that this output was made with: the "
                f"same users would get other pseudonyms. Bring the old key back, or use another "
                f"--output."
            )
        return key


_MAKE_ONE: Final = (
    "Make one with  openssl rand -hex 32 > FILE  and give it as --pii-key-file, on every worker."
)
_BRING_BACK: Final = (
    "Bring the key that this output was made with back, on every worker, or give its new place as "
    "--pii-key-file; no other key will do."
)


@functools.lru_cache(maxsize=4)
def _key(path: str, remedy: str) -> bytes:
    try:
        key = read_bytes(path).strip()
        warn_of_readers(path)
    except (OSError, ValueError) as error:  # ValueError: a scheme Beam does not know
        raise PiiError(
            f"the key of pseudonyms, {path}, cannot be read ({type(error).__name__}). {remedy}"
        ) from None
    if len(key) < LEAST_KEY_BYTES:
        raise PiiError(
            f"the key in {path} has {len(key)} bytes; fewer than {LEAST_KEY_BYTES} can be guessed, "
            f"and pseudonyms undone. {remedy}"
        )
    return hashlib.blake2b(key, digest_size=64, person=b"adtally key").digest()


def _id(key: bytes) -> str:
    return hashlib.blake2b(b"", digest_size=6, key=key, person=b"adtally id").hexdigest()


def _content_hash(events: pl.DataFrame) -> pl.Series:
    """XXH3-64 of the fields of each record's events; it breaks ties between copies.

    Events of one record share it, as they share that of the record as it came: rules tell by it.
    """
    names = [name for name in (*schema.DECODED_FIELDS, "extra") if name in events.columns]
    texts = (pl.col(name).cast(pl.String).fill_null("") for name in names)
    whole = events.select(pl.concat_str(*texts, separator="\x1f").alias("whole"))
    hashes = whole.select(plh.col("whole").nchash.xxh3_64().reinterpret(signed=True)).to_series()
    if (events["record_index"] > 0).any():
        records = events.select("source", "position", hashes.alias("own"))
        hashes = records.select(pl.col("own").sum().over("source", "position")).to_series()
    return hashes.alias("content_hash")


def _pseudonyms(key: bytes, kind: bytes, texts: pl.Series) -> pl.Series:
    # Another key for each kind: an address and a user of the same text are not the same.
    keyed = hashlib.blake2b(digest_size=PSEUDONYM_BYTES, key=key, person=kind)

    def pseudonym(text: str | None) -> str | None:
        if text is None:
            return None
        digest = keyed.copy()
        digest.update(text.encode())
        return digest.hexdigest()

    return pl.Series([pseudonym(text) for text in texts.to_list()], dtype=pl.String)


def _truncated(texts: pl.Series) -> pl.Series:
    return pl.Series([_network(text) for text in texts.to_list()], dtype=pl.String)


def _network(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = KEPT_BITS[address.version]
    if isinstance(address, ipaddress.IPv6Address) and address.sixtofour is not None:
        bits = _KEPT_BITS_6TO4
    return str(ipaddress.ip_network((address.packed, bits), strict=False).network_address)
