"""What is stored of addresses and users."""

from __future__ import annotations

import pickle
from pathlib import Path

import polars as pl
import pytest

from adtally.transforms.pii import Pii, PiiError

KEY = b"0123456789abcdef-a key"


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return str(path)


def frame(ips: list[str | None], users: list[str | None]) -> pl.DataFrame:
    texts = pl.Schema({"ip": pl.String, "user_id": pl.String})
    found = pl.DataFrame({"ip": ips, "user_id": users}, schema=texts).with_row_index("position")
    return found.with_columns(source=pl.lit("s"), record_index=pl.lit(0))


@pytest.mark.parametrize(
    ("address", "stored"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("2002:cb00:714d::1", "2002:cb00:7100::"),  # 6to4 of 203.0.113.77
        ("fe80::1%eth0", "fe80::"),
        ("203.0.113.77:443", None),
        ("token-7", None),
        (None, None),
    ],
)
def test_truncated_addresses(address: str | None, stored: str | None) -> None:
    found = Pii("truncate").stored(frame([address], ["u"]))
    assert found.select("ip", "user_id").rows() == [(stored, None)]


def test_pseudonyms_are_equal_where_the_values_were(key: str) -> None:
    given = frame(["10.0.0.1", "10.0.0.2", "10.0.0.1", None], ["a", "a", None, "10.0.0.1"])
    found = Pii.hashed(key).stored(given)
    ips, users = found["ip"].to_list(), found["user_id"].to_list()
    assert ips[0] == ips[2] != ips[1]
    assert users[0] == users[1]
    assert (ips[3], users[2]) == (None, None)
    assert users[3] != ips[0], "the same text is another pseudonym as a user than as an address"
    assert all(len(text) == 24 for text in (*ips[:3], users[0]))
    assert Pii.hashed(key).stored(given).equals(found)


def test_events_of_one_record_share_the_hash_of_what_is_stored(key: str) -> None:
    given = frame(["10.0.0.1"] * 4, ["u", "v", "u", "v"]).with_columns(
        position=pl.Series([5, 5, 9, 9]), record_index=pl.Series([0, 1, 0, 1])
    )
    hashes = Pii.hashed(key).stored(given)["content_hash"].to_list()
    assert len(set(hashes)) == 1  # of both events, and of the copy of the record
    other = given.with_columns(user_id=pl.Series(["u", "v", "u", "w"]))
    first, second, third, fourth = Pii.hashed(key).stored(other)["content_hash"]
    assert first == second == hashes[0]
    assert third == fourth != first


def test_another_key_gives_other_pseudonyms(key: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(KEY + b"!")
    given = frame(["10.0.0.1"], ["a"])
    columns = ["ip", "user_id", "content_hash"]
    mine, theirs = (
        Pii.hashed(path).stored(given).select(columns).row(0) for path in (key, str(other))
    )
    assert not set(mine) & set(theirs)


def test_a_line_end_after_the_key_does_not_count(key: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(KEY + b"\n")
    assert Pii.hashed(str(other)).key_id == Pii.hashed(key).key_id


def test_a_short_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"fifteen-letters")
    with pytest.raises(PiiError, match="has 15 bytes") as caught:
        Pii.hashed(str(path))
    assert "fifteen-letters" not in str(caught.value)


def test_the_key_is_no_part_of_a_jobs_description(key: str) -> None:
    pii = Pii.hashed(key)
    pii.check()
    assert KEY not in pickle.dumps(pii)
    assert KEY.decode() not in repr(pii)


@pytest.mark.parametrize("where", ["nowhere", ".", "unheard-of://nowhere"])
def test_a_missing_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PiiError, match=r"cannot be read.*openssl rand") as caught:
        Pii.hashed(where)
    assert f" {where}, " in str(caught.value)
