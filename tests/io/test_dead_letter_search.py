"""Which dead letters are a tenant's or a user's, and which only look so."""

from __future__ import annotations

import json

import pytest

from adtally.io.dead_letter_search import LetterSearch
from adtally.io.dead_letters import DeadLetter, encode_line
from adtally.transforms.mapping import identity_mapping, parse_mapping

TALKINGDATA = parse_mapping(
    """
    [fields]
    event_type = { constant = "click" }
    advertiser_id = "app"
    user_id = { from = "who", path = "$.id" }
    occurred_at = "at"
    """
)


def line(payload: bytes, message: str = "") -> bytes:
    return encode_line(
        DeadLetter.of(
            failed_at=0,
            stage="decode",
            error_type="x",
            message=message,
            source="file",
            position="0",
            payload=payload,
        )
    )


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"advertiser_id": "acme"}', True),
        (b'{"advertiser_id": "acme2", "note": "acme"}', False),  # it says whose it is
        (b'{"note": "for acme, only"}', True),
        (b'{"note": "acmeish"}', False),
        (b'{"advertiser_id": "acme", "cut', True),
        (b'{"advertiser_id": "my-acme"', True),  # no JSON: a name in a name cannot be told
        (b"\xff\x00acme\xff", True),
        (b"\xffacmeacme", False),
        (b'["acme"]', True),
        (b"", False),
    ],
)
def test_a_tenant(payload: bytes, found: bool) -> None:
    assert LetterSearch("acme", (), identity_mapping()).finds(line(payload)) is found


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"user_id": "12"}', True),
        (b'{"user_id": 12}', True),
        (b'{"anything": {"deep": ["12"]}}', True),
        (b'{"cost": 12, "occurred_at": "2026-03-12"}', False),
        (b'{"url": "https://a/?u=12"}', False),  # too short to be looked for in text
        (b'{"user_id": "12", "cut', True),
    ],
)
def test_a_user_with_a_short_name(payload: bytes, found: bool) -> None:
    assert LetterSearch(None, ("12",), identity_mapping()).finds(line(payload)) is found


def test_a_long_name_is_found_inside_of_text_and_however_it_is_written() -> None:
    name = 'ü/"müller"'
    search = LetterSearch(None, (name, "c0ffee00"), identity_mapping())
    assert search.finds(line(json.dumps({"url": f"https://a/?u={name}&x"}).encode()))
    assert search.finds(line(json.dumps({"u": name}).encode()[:-2]))
    assert search.finds(line(json.dumps({"u": name}, ensure_ascii=False).encode()[:-2]))
    assert search.finds(line(f"{name} went".encode("latin-1", "replace"))) is False
    assert search.finds(line(b"{}", message="user c0ffee00 is refused"))
    assert not search.finds(line(b'{"u": "c0ffee001"}'))


def test_fields_are_those_of_the_mapping() -> None:
    tenant = LetterSearch("3", (), TALKINGDATA)
    assert tenant.finds(line(b'{"app": 3, "channel": 4}'))
    assert not tenant.finds(line(b'{"app": 4, "channel": 3, "text": "3"}'))
    user = LetterSearch(None, ("3",), TALKINGDATA)
    assert user.finds(line(b'{"app": 4, "who": {"id": 3}}'))
    assert not user.finds(line(b'{"app": 3, "who": {"id": 4}}'))
    both = LetterSearch("4", ("3",), TALKINGDATA)
    assert both.finds(line(b'{"app": 4, "who": {"id": 3}}'))
    assert not both.finds(line(b'{"app": 5, "who": {"id": 3}}'))


def test_what_is_no_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="not a dead letter"):
        LetterSearch("a", (), identity_mapping()).finds(b"{}")
