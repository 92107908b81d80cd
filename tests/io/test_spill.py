"""What is put aside comes back byte by byte, in any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.spill import Spill, take


@given(data=st.binary())
def test_without_a_folder_bytes_travel_themselves(data: bytes) -> None:
    spill = Spill("")
    assert take(spill.put(data)) == data
    spill.flush()
    spill.close()


@pytest.mark.parametrize("folder", ["plain", "with:colons: 1:2", "é €"])
def test_bytes_come_back_in_any_order(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    spill = Spill(str(tmp_path / folder))
    pieces = [b"", b"a", b"\0\1:\n" * 50_000, b"", bytes(range(256)), b"z" * 1_000_000]
    addresses = [spill.put(piece) for piece in pieces]
    assert all(len(address) < 300 for address in addresses)
    assert len({address for address, piece in zip(addresses, pieces, strict=True) if piece}) == 4
    spill.flush()
    read = [(n, take(addresses[n])) for n in reversed(range(len(pieces)))]
    assert read == [(n, pieces[n]) for n in reversed(range(len(pieces)))]
    addresses.append(spill.put(b"after the flush"))
    spill.close()
    assert take(addresses[-1]) == b"after the flush"
    assert take(addresses[2]) == pieces[2]


def test_a_closed_spill_can_be_used_again(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path))
    one = spill.put(b"one")
    spill.close()
    two = spill.put(b"two")
    spill.close()
    spill.close()
    assert (take(one), take(two)) == (b"one", b"two")


def test_two_spills_share_a_folder(tmp_path: Path) -> None:
    spills = [Spill(str(tmp_path)) for _ in range(3)]
    addresses = [(n, k, spills[n].put(b"%d %d" % (n, k))) for k in range(20) for n in range(3)]
    for spill in spills:
        spill.close()
    assert len(list(tmp_path.iterdir())) == 3
    for n, k, address in addresses:
        assert take(address) == b"%d %d" % (n, k)


def test_another_process_reads_what_was_flushed(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path))
    spill.put(b"before")
    address = spill.put(b"for you")
    spill.flush()
    code = f"from adtally.io.spill import take; print(take({address!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout == b"b'for you'\n"
    spill.close()


def test_a_file_cut_short_is_an_error_and_not_fewer_events(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path))
    whole, cut = spill.put(b"a" * 100), spill.put(b"b" * 100)
    spill.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:150])
    assert take(whole) == b"a" * 100
    with pytest.raises(OSError, match="holds 50 of 100 bytes at 100"):
        take(cut)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        take(whole)
