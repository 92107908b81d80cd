"""Lists of networks, and which of millions of addresses lie in them."""

from __future__ import annotations

import functools
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What makes an IPv4 address one of IPv6 (RFC 4291, 2.5.5.2), so that both are compared alike."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Networks:
    """A set of IPv4 and IPv6 networks."""

    networks: frozenset[Network] = frozenset()

    def contain(self, addresses: pl.Series) -> pl.Series:
        """Whether each address (text) lies in one of the networks.

        Null where the text is no address, such as a token that stands for one: not enough data.
        """
        packed, known = _packed(addresses)
        inside = np.zeros(len(packed), dtype=bool)
        starts, ends = _ranges(self.networks)
        if len(starts):
            below = np.searchsorted(starts, packed, side="right") - 1
            inside = (below >= 0) & (packed <= ends[below])
        return pl.select(pl.when(pl.Series(known)).then(pl.Series(inside))).to_series()


def network(text: str) -> Network:
    """A network from text such as ``203.0.113.0/24`` or ``2001:db8::1``.

    Raises:
        ValueError: it is none; says why.
    """
    return ipaddress.ip_network(text.strip(), strict=False)


def _packed(addresses: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Addresses as 16 bytes each, and which of them are addresses."""
    texts = addresses.to_list()
    try:  # nearly all are addresses of IPv4, and there are millions
        raw = b"".join([_MAPPED + socket.inet_pton(socket.AF_INET, text) for text in texts])
        known = np.ones(len(texts), dtype=bool)
    except (OSError, ValueError, TypeError):
        parts = [_address(text) for text in texts]
        known = np.array([part is not None for part in parts], dtype=bool)
        raw = b"".join(part or bytes(16) for part in parts)
    return np.frombuffer(raw, dtype="S16"), known


def _address(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        if ":" in text:
            return socket.inet_pton(socket.AF_INET6, text)
        return _MAPPED + socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=8)
def _ranges(networks: frozenset[Network]) -> tuple[np.ndarray, np.ndarray]:
    """First and last address of each network, disjoint and sorted.

    Of two networks that overlap, of either kind, one contains the other: the outermost are kept.
    """
    starts: list[bytes] = []
    ends: list[bytes] = []
    pairs = (
        (_sixteen(each.network_address), _sixteen(each.broadcast_address)) for each in networks
    )
    for start, end in sorted(pairs):
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
        else:
            ends[-1] = max(end, ends[-1])
    return np.array(starts, dtype="S16"), np.array(ends, dtype="S16")


def _sixteen(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else _MAPPED + address.packed
