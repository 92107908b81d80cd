"""Distinct users: exact below k, mergeable, independent of order, as precise as stated above."""

import math
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.transforms.uniques import UNIQUES_K, bottom_k, estimate

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
HASHES = st.lists(st.one_of(INT64, st.integers(-5, 5)), max_size=60)


def lists(values: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"h": [values]}, schema={"h": pl.List(pl.Int64)})


def kept(values: list[int], k: int) -> list[int]:
    return lists(values).select(bottom_k(pl.col("h"), k))["h"][0].to_list()


def estimated(values: list[int], k: int) -> int:
    frame = lists(values).select(bottom_k(pl.col("h"), k))
    return frame.select(estimate(pl.col("h"), k))["h"][0]


@given(HASHES, st.integers(2, 20))
def test_the_least_k_are_kept_sorted_and_once(values: list[int], k: int) -> None:
    assert kept(values, k) == sorted(set(values))[:k]


@given(HASHES, st.randoms(use_true_random=False))
def test_exact_below_k_in_any_order(values: list[int], dice: random.Random) -> None:
    distinct = len(set(values))
    shuffled = values + values[: len(values) // 2]
    dice.shuffle(shuffled)
    assert estimated(shuffled, distinct + 1) == distinct


@given(st.lists(HASHES, min_size=1, max_size=4), st.integers(2, 20))
def test_merging_equals_counting_at_once(parts: list[list[int]], k: int) -> None:
    everything = [value for part in parts for value in part]
    merged = [value for part in parts for value in kept(part, k)]
    assert kept(merged, k) == kept(everything, k)


@pytest.mark.parametrize(("k", "n"), [(16, 1_000), (64, 20_000), (256, 100_000), (16, 16)])
def test_the_estimate_is_within_four_standard_errors(k: int, n: int) -> None:
    for seed in range(5):
        dice = random.Random(seed)
        values = [dice.getrandbits(64) - (1 << 63) for _ in range(n)]
        assert abs(estimated(values, k) - n) < 4 * n / math.sqrt(k - 2)


def test_the_estimate_is_unbiased_and_its_standard_error_as_stated() -> None:
    k, n, runs = 32, 400, 600
    dice = random.Random(7)
    tables = [sorted(dice.getrandbits(64) - (1 << 63) for _ in range(n))[:k] for _ in range(runs)]
    frame = pl.DataFrame({"h": tables}, schema={"h": pl.List(pl.Int64)})
    found = frame.select(estimate(pl.col("h"), k))["h"]
    stated = n / math.sqrt(k - 2)
    assert abs(float(found.mean()) - n) < 4 * stated / math.sqrt(runs)
    assert 0.8 * stated < float(found.std()) < 1.2 * stated


def test_the_whole_range_of_hashes() -> None:
    k = 4
    step = (1 << 64) // 1000
    evenly = [-(1 << 63) + n * step for n in range(1, 1000)]
    assert abs(estimated(evenly, k) - 750) <= 1  # (k - 1) / (k / 1000)
    assert estimated([], k) == 0
    assert UNIQUES_K == 1024
