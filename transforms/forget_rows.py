"""Forgetting a user in what follows from events: flags, verdicts and summaries.

Flags keep what they count, under the token that a re-tally from the log would name. Sums stay as
they were billed.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc

from adtally.transforms.forget import LEAST, Person, Plan, Tokens


def forget_in_flags(
    flags: list[dict[str, Any]],
    advertiser: str,
    start_ms: int,
    person: Person,
    known: Plan,
    tokens: Tokens,
) -> list[dict[str, Any]] | None:
    """The flags of a row with tokens for the person and their addresses; None where they have none.

    Args:
        flags: ``FLAG_TYPE`` or ``LOOK_BACK_FLAG_TYPE``.
        advertiser: whose row it is.
        start_ms: start of the row's window.
        person: whom.
        known: of the whole log.
        tokens: what replaces what.
    """
    changed = False
    made = []
    for flag in flags:
        kind, subject = flag["subject_type"], flag["subject"]
        new = subject
        if kind == "user" and subject == person.user:
            if person.advertiser in (None, advertiser):
                new = tokens.user(subject)
        elif kind == "ip" and (advertiser, start_ms, subject) in known.addresses:
            new = tokens.address(subject)
        changed |= new != subject
        made.append({**flag, "subject": new})
    if not changed:
        return None
    order = ("flagged_at", "rule", "subject_type", "subject")  # as the tally orders them
    return sorted(made, key=lambda flag: tuple(flag[name] for name in order if name in flag))


def forget_flag_rows(
    rows: pa.Table, person: Person, known: Plan, tokens: Tokens
) -> tuple[pa.Table, int]:
    """Rows of flags, verdicts or anomalies without the person, and how many of them changed."""
    subjects = pc.struct_field(pc.list_flatten(rows["flags"]), "subject")
    named = {person.user, *(address for _, _, address in known.addresses)}
    if not pc.any(pc.is_in(subjects, pa.array(sorted(named), pa.string()))).as_py():
        return rows, 0
    starts = pl.Series(rows["window_start"]).dt.epoch("ms").to_list()
    advertisers = rows["advertiser_id"].to_pylist()
    flags, count = rows["flags"].to_pylist(), 0
    for at, (advertiser, start, row) in enumerate(zip(advertisers, starts, flags, strict=True)):
        new = forget_in_flags(row, advertiser, start, person, known, tokens)
        if new is not None:
            flags[at], count = new, count + 1
    index = rows.schema.get_field_index("flags")
    kind = rows.schema.field(index)
    return rows.set_column(index, kind, pa.array(flags, kind.type)), count


def user_hash(user: str) -> int:
    """What the tally keeps of a user, see ``transforms.uniques``."""
    hashed = pl.DataFrame({"user": [user]}).select(
        plh.col("user").nchash.xxh3_64().reinterpret(signed=True)
    )
    return int(hashed.item())


def forget_in_hashes(hashes: list[int], user: str, tokens: Tokens, k: int) -> list[int] | None:
    """Sorted bottom-k hashes with the token's in place of the user's; None where it is not there.

    A list of fewer than ``k`` is the whole set, and stays one. A full one estimates by its largest:
    there the new hash takes the old one's place, so that the estimate stays.
    """
    old = user_hash(user)
    if old not in hashes:
        return None
    at = hashes.index(old)
    others = hashes[:at] + hashes[at + 1 :]
    if len(hashes) < k:
        return sorted({*others, user_hash(tokens.user(user))})
    least = hashes[at - 1] + 1 if at else LEAST
    if at + 1 < len(hashes):
        return sorted([*others, tokens.between(old, least, hashes[at + 1] - 1)])
    # The largest says how many there are: move it by no more than the error of the estimate.
    return sorted([*others, tokens.between(old, max(least, old - (1 << 40)), old)])


def forget_summary_rows(
    rows: pa.Table, person: Person, tokens: Tokens, k: int
) -> tuple[pa.Table, int]:
    """Summaries whose ``unique_user_hashes`` no longer hold the person's, and how many changed."""
    old = user_hash(person.user)
    frame = pl.DataFrame(pl.from_arrow(rows.select(["advertiser_id", "unique_user_hashes"])))
    theirs = pl.col("unique_user_hashes").list.contains(old)
    if person.advertiser is not None:
        theirs &= pl.col("advertiser_id") == person.advertiser
    where = frame.select(theirs.alias("x"))["x"].arg_true().to_list()
    if not where:
        return rows, 0
    lists = frame["unique_user_hashes"].to_list()
    for at in where:
        lists[at] = forget_in_hashes(lists[at], person.user, tokens, k)
    index = rows.schema.get_field_index("unique_user_hashes")
    kind = rows.schema.field(index)
    return rows.set_column(index, kind, pa.array(lists, kind.type)), len(where)
