"""Mixtures of sources: each within one sample of its share at every moment, however far the run has come."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.reading.mixture import LONGEST_PERIOD, Mixture

WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def furthest(mixture: Mixture, positions: range) -> Fraction:
    """The largest distance of a source from its exact share, in samples, over ``positions``."""
    counts = mixture.counts(positions.start)
    most = 0  # in samples times the period, a whole number
    for position in positions:
        source, given = mixture.at(position)
        assert given == counts[source]
        counts[source] += 1
        for count, part in zip(counts, mixture.parts, strict=True):
            most = max(most, abs(count * mixture.period - (position + 1) * part))
    return Fraction(most, mixture.period)


@settings(deadline=None, max_examples=100)
@given(WEIGHTS)
@example([27, 1, 1, 1, 22])
@example([1] * 8)
def test_every_prefix_is_within_one_sample_of_every_share(weights):
    mixture = Mixture(weights)
    bound = 1 - Fraction(1, 2 * len(weights) - 2) if len(weights) > 1 else 0
    assert furthest(mixture, range(2 * mixture.period + 1)) <= bound < 1


@pytest.mark.parametrize("seed", range(4))
def test_many_random_weights(seed):
    """Among them as many sources as anyone mixes, and shares that fill no short period."""
    rng = np.random.default_rng(seed)
    for k in (2, 3, 5, 12, 40):
        mixture = Mixture(np.round(rng.exponential(size=k) + 0.001, 3).tolist())
        assert furthest(mixture, range(2000)) < 1


@settings(deadline=None, max_examples=60)
@given(WEIGHTS, st.integers(0, 5000))
def test_counts_at_any_place(weights, position):
    mixture = Mixture(weights)
    counts = mixture.counts(position)
    assert sum(counts) == position
    source, before = Mixture(weights).at(position)  # one that has not been anywhere
    assert before == counts[source]
    assert mixture.counts(position + 1)[source] == before + 1
    assert pickle.loads(pickle.dumps(mixture)).at(position) == (source, before)


def test_mixtures_do_not_drift():
    mixture = Mixture([0.7, 0.2, 0.1])
    assert mixture.counts(10**12) == [7 * 10**11, 2 * 10**11, 10**11]
    first = [mixture.at(p)[0] for p in range(1000)]
    assert [first.count(s) for s in range(3)] == [700, 200, 100]


def test_the_turns_never_change():
    """A checkpoint of today must find its place with any later version."""
    assert [Mixture([3, 2, 2]).at(p)[0] for p in range(7)] == PINNED


PINNED = [0, 1, 2, 0, 1, 2, 0]


def test_shares_of_long_periods_are_rounded_to_parts_of_the_longest():
    weights = [1.2345678, 0.7654323, 1 / 3]
    mixture = Mixture(weights)
    assert mixture.period == LONGEST_PERIOD
    for part, weight in zip(mixture.parts, weights, strict=True):
        assert abs(part - LONGEST_PERIOD * weight / sum(weights)) < 1
    assert Mixture([1_242_828, 118_287]).period == (1_242_828 + 118_287) // 9
    assert Mixture([2, 4, 6]).parts == [1, 2, 3]


@pytest.mark.parametrize("weights", [[], [1, 0], [-1.0], [float("nan")], [1.0, 1e-9]])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match=r"data\.weights"):
        Mixture(weights)
