"""Groups of shards: where reading begins, who reads a child and when, and how a group is cut."""

from __future__ import annotations

import pytest
from apache_beam.runners.sdf_utils import ThreadsafeRestrictionTracker

from adtally.io.kinesis_client import Kinesis, KinesisConfig
from adtally.io.kinesis_shards import (
    TRIM_HORIZON,
    Claim,
    Group,
    GroupCoder,
    GroupTracker,
    Position,
    Shard,
    cut,
    replaced,
    roots,
    whole_stream,
)
from tests.io.fake_kinesis import HASHES, Clock, FakeKinesis

S0, S1, S2, S3, S4, S5, S6 = (f"shardId-{n:012d}" for n in range(7))
HOUR = 3600


def listed(fake: FakeKinesis) -> dict[str, Shard]:
    return Kinesis(KinesisConfig("events"), fake).list_shards()


def begin(fake: FakeKinesis, start_ms: int = TRIM_HORIZON) -> Group:
    return whole_stream(list(listed(fake).values()), start_ms, fake.created_ms)


def finish(fake: FakeKinesis, group: Group, *shards: str) -> Group:
    for shard in shards:
        group = group.ended(shard, listed(fake))
    return group


@pytest.fixture
def fake() -> FakeKinesis:
    return FakeKinesis(Clock(), shards=2)


def test_listing_follows_pages_and_any_order(fake: FakeKinesis) -> None:
    fake.split(S0)
    fake.split(S1)
    for fake.page in (1, 2, 3, 100):
        for fake.children_first in (False, True):
            assert set(listed(fake)) == set(fake.shards)
            assert set(begin(fake).shards) == {S0, S1}


def test_a_listed_shard_has_its_hash_range_its_parents_and_its_end(fake: FakeKinesis) -> None:
    child = fake.merge(S1, S0)
    found = listed(fake)[child]
    assert found == Shard(
        id=S2, parent=S1, adjacent_parent=S0, first_hash="0", last_hash=str(HASHES - 1)
    )
    assert listed(fake)[S0].closed


def test_reading_begins_with_the_oldest_shards_there_are(fake: FakeKinesis) -> None:
    fake.split(S0)
    fake.clock.sleep(25 * HOUR)
    assert set(begin(fake).shards) == {S1, S2, S3}


def test_a_start_time_is_kept_for_children_too(fake: FakeKinesis) -> None:
    group = begin(fake, 5_000)
    assert {where.start_ms for where in group.shards.values()} == {5_000}
    fake.split(S0)
    group = finish(fake, group, S0)
    assert group.shards[S2].start_ms == group.start_ms == 5_000


def test_a_split_gives_both_children(fake: FakeKinesis) -> None:
    fake.split(S0)
    group = finish(fake, begin(fake), S0)
    assert set(group.shards) == {S1, S2, S3}
    assert group.finished == ()
    assert int(group.shards[S2].last_hash) + 1 == int(group.shards[S3].first_hash)


def test_a_merged_child_waits_for_both_parents_whichever_ends_first(fake: FakeKinesis) -> None:
    fake.merge(S0, S1)
    for first, second in ((S0, S1), (S1, S0)):
        group = finish(fake, begin(fake), first)
        assert set(group.shards) == {second}
        group = finish(fake, group, second)
        assert set(group.shards) == {S2}
        assert group.finished == ()


def test_nested_reshards_are_followed_to_the_leaves(fake: FakeKinesis) -> None:
    a, b = fake.split(S0)
    c = fake.merge(b, S1)
    d, e = fake.split(c)
    fake.children_first = True
    group = finish(fake, begin(fake), S0)
    assert set(group.shards) == {a, b, S1}
    group = finish(fake, group, S1, b)
    assert set(group.shards) == {a, c}
    assert set(finish(fake, group, c).shards) == {a, d, e}


@pytest.mark.parametrize("turned", [False, True])
def test_a_merged_child_waits_for_a_parent_that_is_itself_to_come(
    fake: FakeKinesis, turned: bool
) -> None:
    a, b = fake.split(S0)
    c = fake.merge(b, S1) if turned else fake.merge(S1, b)
    group = finish(fake, begin(fake), S1)
    assert set(group.shards) == {S0}
    group = finish(fake, group, S0)
    assert set(group.shards) == {a, b}
    assert set(finish(fake, group, b).shards) == {a, c}


def test_a_child_waits_no_longer_for_what_another_group_reads(fake: FakeKinesis) -> None:
    fake.create(3)
    middle = fake.split(fake.merge(S1, S0))
    last = fake.merge(S2, middle[1])
    group = begin(fake)
    left, rest = group.without(S1), group.without(S0).without(S2)
    left = finish(fake, left, S2)
    assert set(left.shards) == {S0}
    assert set(finish(fake, left, S0).shards) == {last}
    assert set(finish(fake, rest, S1, "shardId-000000000003").shards) == set(middle)


@pytest.mark.parametrize(("first", "second"), [(S0, S1), (S1, S0)])
@pytest.mark.parametrize("ends_first", [0, 1])
def test_the_child_of_two_groups_is_read_by_one_of_them(
    fake: FakeKinesis, first: str, second: str, ends_first: int
) -> None:
    groups = cut(begin(fake), 2)
    child = fake.merge(first, second)
    order = [groups[ends_first], groups[1 - ends_first]]
    after = [finish(fake, group, *group.shards) for group in order]
    assert [name for group in after for name in group.shards] == [child]


def test_the_child_of_two_groups_is_read_once_when_one_parent_has_expired(
    fake: FakeKinesis,
) -> None:
    for gone, first in ((S0, S1), (S1, S0), (S0, S0), (S1, S1)):
        fake.create(2)
        groups = {next(iter(group.shards)): group for group in cut(begin(fake), 2)}
        child = fake.merge(S0, S1)
        after = [finish(fake, groups.pop(first), first)]
        del fake.shards[gone]
        rest, group = groups.popitem()
        after.append(group.lost(rest, listed(fake)) if rest == gone else finish(fake, group, rest))
        assert [name for group in after for name in group.shards] == [child], (gone, first)


def test_a_child_whose_first_parent_was_gone_before_reading_began_is_read(
    fake: FakeKinesis,
) -> None:
    for gone, left in ((S0, S1), (S1, S0)):
        fake.create(2)
        child = fake.merge(S0, S1)
        del fake.shards[gone]
        group = begin(fake)
        assert set(group.shards) == {left}
        group = GroupCoder().decode(GroupCoder().encode(cut(group, 2)[0]))
        assert set(finish(fake, group, left).shards) == {child}


def test_a_shard_is_replaced_only_by_all_of_its_children(fake: FakeKinesis) -> None:
    group = begin(fake)
    assert not replaced(S0, group.shards[S0], listed(fake))
    fake.split(S0)
    for fake.hidden in ({S2}, {S3}, {S2, S3}):
        assert not replaced(S0, group.shards[S0], listed(fake))
    fake.hidden = set()
    assert replaced(S0, group.shards[S0], listed(fake))
    fake.merge(S1, S3)
    assert replaced(S1, group.shards[S1], listed(fake))


def test_the_end_of_a_shard_keeps_what_is_settled(fake: FakeKinesis) -> None:
    fake.split(S0)
    group = begin(fake)
    for shard in (S0, S1):
        group = group.moved(shard, Position(settled_ms=7_000))
    assert finish(fake, group, S0).settled_ms == 7_000


def test_a_lost_shard_is_replaced_by_its_children(fake: FakeKinesis) -> None:
    group = begin(fake)
    fake.split(S0)
    del fake.shards[S0]
    assert set(group.lost(S0, listed(fake)).shards) == {S1, S2, S3}


def test_a_lost_shard_without_children_is_replaced_by_what_is_left_of_its_range(
    fake: FakeKinesis,
) -> None:
    group = begin(fake)
    a, b = fake.split(S0)
    c, d = fake.split(a)
    e, f = fake.split(b)
    for name in (S0, a, b):
        del fake.shards[name]
    assert set(group.lost(S0, listed(fake)).shards) == {S1, c, d, e, f}


def test_a_lost_shard_with_one_child_gone_and_split_leaves_no_hole(fake: FakeKinesis) -> None:
    group = begin(fake)
    a, b = fake.split(S0)
    c, d = fake.split(a)
    for name in (S0, a):
        del fake.shards[name]
    assert set(group.lost(S0, listed(fake)).shards) == {S1, b, c, d}


def test_a_lost_shard_of_another_group_is_not_taken(fake: FakeKinesis) -> None:
    left, right = cut(begin(fake), 2)
    a, b = fake.split(fake.merge(S0, S1))
    for name in (S0, S1, S2):
        del fake.shards[name]
    assert set(left.lost(S0, listed(fake)).shards) == {a}
    assert set(right.lost(S1, listed(fake)).shards) == {b}


@pytest.mark.parametrize("readers", [1, 2, 3, 5, 9])
def test_a_cut_has_every_shard_once_and_neighbours_together(readers: int) -> None:
    fake = FakeKinesis(Clock(), shards=5)
    group = begin(fake)
    groups = cut(group, readers)
    assert len(groups) == min(readers, 5)
    names = [name for part in groups for name in part.shards]
    assert names == [shard.id for shard in roots(listed(fake).values())]
    assert all(part.stream_created_ms == fake.created_ms for part in groups)
    sizes = [len(part.shards) for part in groups]
    assert max(sizes) - min(sizes) <= 1


def test_the_watermark_of_a_group_is_the_least_of_its_shards() -> None:
    group = Group(shards={"a": Position(settled_ms=5), "b": Position(settled_ms=3)})
    assert group.settled_ms == 3
    assert Group().settled_ms == 0


def test_the_coder_gives_back_what_it_got(fake: FakeKinesis) -> None:
    fake.merge(S0, S1)
    group = finish(fake, begin(fake, 12), S0).moved(S1, Position(sequence="9" * 56, settled_ms=3))
    coder = GroupCoder()
    assert coder.decode(coder.encode(group)) == group
    assert coder.is_deterministic()
    assert b"9" * 56 in coder.encode(group)


def test_a_tracker_checkpoints_and_then_claims_no_more() -> None:
    before, after = Group(shards={"a": Position()}), Group(shards={"a": Position(sequence="1")})
    tracker = GroupTracker(before)
    assert not tracker.is_bounded()
    assert tracker.try_claim(Claim(before, after))
    for fraction in (0.1, 0.5, 1.0):
        assert tracker.try_split(fraction) is None
    with pytest.raises(ValueError, match="neither read to their end"):
        tracker.check_done()
    primary, rest = tracker.try_split(0) or (None, None)
    assert primary is not None
    assert primary.done
    assert rest == after
    tracker.check_done()
    assert tracker.try_split(0) is None
    assert not tracker.try_claim(Claim(after, before))


def test_a_claim_from_elsewhere_is_refused_aloud() -> None:
    tracker = GroupTracker(Group(shards={"a": Position()}))
    other = Group(shards={"a": Position(sequence="1")})
    with pytest.raises(ValueError, match="records would be lost"):
        tracker.try_claim(Claim(other, other))


def test_the_runner_gets_the_rest_of_a_deferred_group() -> None:
    group = Group(shards={"a": Position()})
    tracker = ThreadsafeRestrictionTracker(GroupTracker(group))
    tracker.defer_remainder()
    assert (tracker.deferred_status() or [None])[0] == group


def test_a_finished_group_leaves_nothing_to_defer() -> None:
    tracker = ThreadsafeRestrictionTracker(GroupTracker(Group()))
    tracker.defer_remainder()
    assert tracker.deferred_status() is None
    tracker.check_done()
