"""Tokens, and hashes whose order decides: a user forgotten, and nothing counted otherwise."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from adtally.transforms import forget, forget_rows
from adtally.transforms.forget import LEAST, MOST, Person, Plan, Tokens

TOKENS = Tokens(b"s" * forget.SECRET_BYTES)
HASHES = st.integers(LEAST, MOST) | st.integers(-3, 3)
WINDOW_MS = 60_000


def events(hashes: list[tuple[int, bool, int]]) -> pl.DataFrame:
    """Copies of a few clicks, (hash, whether it is the person's, which click), by position."""
    return pl.DataFrame(
        [
            {
                "advertiser_id": "a",
                "event_type": "click",
                "event_id": str(click),
                "occurred_at": 0,
                "user_id": "me" if mine else "other",
                "ip": "192.0.2.1",
                "content_hash": hash_,
                "source": "file",
                "position": position,
                "record_index": 0,
                "user_agent": "Mozilla/5.0",
            }
            for position, (hash_, mine, click) in enumerate(hashes)
        ],
        schema_overrides={"content_hash": pl.Int64, "record_index": pl.Int32},
    ).with_columns(pl.from_epoch("occurred_at", "ms").dt.replace_time_zone("UTC"))


def ranks(frame: pl.DataFrame) -> list[list[int]]:
    """Of each click its copies in order; then the person's clicks in order."""
    ordered = frame.sort("content_hash", "position")
    groups = ordered.group_by("event_id", maintain_order=True).agg("position")
    mine = ordered.filter(pl.col("user_id") != "other").get_column("position").to_list()
    return [*sorted(groups["position"].to_list()), mine]


COPIES = st.tuples(HASHES, st.booleans(), st.integers(0, 2))


@given(st.lists(COPIES, min_size=1, max_size=9, unique_by=lambda copy: copy[0]))
def test_new_hashes_keep_their_order(hashes: list[tuple[int, bool, int]]) -> None:
    frame, person = events(hashes), Person("me")
    theirs, others = (frame.filter(which) for which in (_mine(), ~_mine()))
    known = forget.plan(theirs, others, WINDOW_MS, TOKENS)
    done = forget.forget_events(frame.to_arrow(), person, known, TOKENS, WINDOW_MS)
    assert done.rows == theirs.height and done.shared == (others.height if theirs.height else 0)
    after = pl.DataFrame(pl.from_arrow(done.table))
    assert ranks(after) == ranks(frame)
    again = forget.forget_events(done.table, person, known, TOKENS, WINDOW_MS)
    assert (again.rows, again.shared, again.table) == (0, 0, done.table)


def _mine() -> pl.Expr:
    return pl.col("user_id") == "me"


def test_what_is_alone_gets_a_hash_that_tells_nothing() -> None:
    frame = events([(5, True, 0)])
    done = forget.forget_events(frame.to_arrow(), Person("me"), Plan(), TOKENS, WINDOW_MS)
    (row,) = done.table.to_pylist()
    assert row["content_hash"] not in (5, None) and row["user_agent"] is None
    assert row["user_id"].startswith("erased-") and row["ip"].startswith("erased-")
    other = Tokens(b"t" * forget.SECRET_BYTES)
    assert other.user("me") != TOKENS.user("me") != TOKENS.address("me")


@given(st.sets(st.integers(LEAST, MOST), max_size=6), st.integers(4, 8))
def test_the_hashes_of_a_summary(others: set[int], k: int) -> None:
    mine = forget_rows.user_hash("me")
    hashes = sorted(others | {mine})[:k]
    new = forget_rows.forget_in_hashes(hashes, "me", TOKENS, k)
    if mine not in hashes:
        assert new is None
        return
    assert new is not None and new == sorted(set(new)) and len(new) == len(hashes)
    assert mine not in new and set(hashes) - {mine} <= set(new)
    if len(hashes) < k:
        assert forget_rows.user_hash(TOKENS.user("me")) in new
    else:  # where the estimate comes from stays
        assert 0 <= hashes[-1] - new[-1] <= 1 << 40
