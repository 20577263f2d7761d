"""Intervals and tests: against a loop, and where the answer is known."""

import numpy as np
import pytest

from eval.compare import differences, intervals
from eval.items import Items
from eval.retention import retention


def items(hits, clusters=None):
    clusters = list(range(len(hits))) if clusters is None else clusters
    return Items({"image": clusters, "hit": list(hits)}, {"b/accuracy": "hit"}, "image")


def test_the_interval_is_about_two_standard_errors_wide():
    hits = np.random.default_rng(1).random(2000) < 0.3
    low, high = intervals(items(hits.tolist()))["b/accuracy"]
    error = (0.3 * 0.7 / 2000) ** 0.5
    assert low < hits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_five_captions_of_a_picture_are_no_five_pictures():
    hits = np.repeat(np.random.default_rng(2).random(300) < 0.5, 5).tolist()
    apart = intervals(items(hits))["b/accuracy"]
    together = intervals(items(hits, np.repeat(np.arange(300), 5).tolist()))["b/accuracy"]
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(5**0.5, rel=0.1)


def test_draws_in_parts_are_the_same(monkeypatch):
    hits = (np.random.default_rng(3).random(50) < 0.5).tolist()
    whole = intervals(items(hits), 101)
    monkeypatch.setattr("eval.compare.CELLS", 500)
    assert intervals(items(hits), 101) == whole


def test_the_paired_test_against_all_swaps():
    rng = np.random.default_rng(4)
    first, second = rng.random(12) < 0.3, rng.random(12) < 0.8
    found = differences(items(first.tolist()), items(second.tolist()))["b/accuracy"]
    change = second.astype(int) - first
    swaps = (np.arange(2**12)[:, None] >> np.arange(12) & 1) * 2 - 1
    exact = (np.abs(swaps @ change) >= abs(change.sum())).mean()
    assert found.size == pytest.approx(change.mean())
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.low <= found.size <= found.high


def test_equal_models_do_not_differ():
    hits = [True, False, True, True]
    assert differences(items(hits), items(hits))["b/accuracy"] == (0.0, 0.0, 0.0, 1.0)


def test_the_difference_is_paired():
    rng = np.random.default_rng(5)
    first = rng.random(1000) < 0.5
    second = first | (rng.random(1000) < 0.02)
    found = differences(items(first.tolist()), items(second.tolist()))["b/accuracy"]
    assert found.low > 0
    assert found.p < 0.01
    assert found.high - found.low < 0.02  # each alone is known to 0.06 only


def test_other_items_are_not_compared():
    with pytest.raises(ValueError, match="the same items of the same benchmark"):
        differences(items([True]), items([True, False]))


def test_retention_by_hand():
    start = {
        "flickr30k/text_to_image/R@1": 0.5,
        "flickr30k/image_to_text/R@1": 0.8,
        "imagenet/top1": 0.6,
        "x/top1": 1.0,
    }
    tuned = {"flickr30k/text_to_image/R@1": 0.6, "flickr30k/image_to_text/R@1": 0.4, "imagenet/top1": 0.54}
    found = retention(start, tuned)
    assert found["retention/flickr30k"] == pytest.approx((1.2 + 0.5) / 2)
    assert found["retention/imagenet"] == pytest.approx(0.9)
    assert found["retention"] == pytest.approx((0.85 + 0.9) / 2)
    assert retention({}, {}) == {}
    with pytest.raises(ValueError, match="score above 0, got 0 for imagenet/top1"):
        retention({"imagenet/top1": 0.0}, {"imagenet/top1": 0.1})
