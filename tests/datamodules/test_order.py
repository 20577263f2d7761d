"""The order of samples: exact passes, exact mixtures, the same numbers on every machine and version."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.reading.mixture import Mixture
from datamodules.reading.shuffle_order import SampleSequence, ShuffleOrder, permutation

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 14), st.integers(0, 3))
def test_every_pass_holds_every_sample_once(sizes, window, seed):
    order = ShuffleOrder(sizes, seed, window)
    total = sum(sizes)
    passes = [[order.at(e * total + i) for i in range(total)] for e in range(3)]
    for epoch, samples in enumerate(passes):
        assert {e for e, _ in samples} == {epoch}
        assert sorted(i for _, i in samples) == list(range(total))


def test_passes_and_seeds_differ_and_repeat():
    def first(seed, epoch, window=2):
        return [ShuffleOrder([50] * 4, seed, window).at(epoch * 200 + i)[1] for i in range(200)]

    assert first(0, 0) == first(0, 0)
    assert len({tuple(first(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    shards = [i // 50 for i in first(0, 0)]
    assert len(set(shards[:100])) == 2
    assert set(shards[:100]) | set(shards[100:]) == set(range(4))


def test_reading_in_any_order_gives_the_same():
    order = ShuffleOrder([7, 3, 5, 11], 1, 2)
    straight = [order.at(p) for p in range(100)]
    jumping = {p: order.at(p) for p in np.random.default_rng(0).permutation(100).tolist()}
    assert [jumping[p] for p in range(100)] == straight
    assert [pickle.loads(pickle.dumps(order)).at(p) for p in range(100)] == straight


def test_the_numbers_never_change():
    """A checkpoint of today must find its place with any later version."""
    assert permutation(8, 12345).tolist() == sorted(range(8), key=lambda i: splitmix64(i, 12345)) == PINNED
    assert [ShuffleOrder([3, 4, 2], 7, 2).at(p)[1] for p in range(9, 18)] == [1, 5, 4, 3, 6, 0, 2, 7, 8]


PINNED = [3, 7, 1, 4, 2, 6, 5, 0]


def splitmix64(counter: int, key: int) -> int:
    """Vigna's generator, with Python's whole numbers."""
    x = (counter * 0x9E3779B97F4A7C15 + key) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_permutations_are_even():
    """Every number is first about as often."""
    counts = np.bincount([permutation(8, key)[0] for key in range(4000)], minlength=8)
    assert abs(counts - 500).max() < 100


def test_a_schedule_passes_over_each_source_by_itself():
    schedule = SampleSequence([ShuffleOrder([6], 0, 1), ShuffleOrder([4, 5], "0/1", 1)], Mixture([1, 3]))
    places = [schedule.at(p) for p in range(24)]
    assert sorted(p.index for p in places if p.source == 0) == list(range(6))
    assert sorted(p.index for p in places if p.source == 1 and p.epoch == 0) == list(range(9))
    other = schedule.substitute(0, 0)
    assert other.source == places[0].source
    assert other.index != places[0].index


def test_substitutes_stand_half_a_pass_away_and_then_one_behind_the_other():
    schedule = SampleSequence([ShuffleOrder([4, 5], 0, 1)], Mixture([1]))
    for position in range(9, 18):  # the second pass
        substitutes = [schedule.substitute(position, attempt) for attempt in range(9)]
        assert substitutes == [schedule.at(9 + (position + 4 + attempt) % 9) for attempt in range(9)]


def test_wrong_orders():
    with pytest.raises(ValueError, match="at least one sample"):
        ShuffleOrder([0], 0, 1)
    with pytest.raises(ValueError, match="window"):
        ShuffleOrder([1], 0, 0)
