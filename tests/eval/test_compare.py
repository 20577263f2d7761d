"""Intervals and tests: against a loop, and where the answer is known."""

import numpy as np
import pytest

from eval.metrics.retention import retention
from eval.results.compare import differences, intervals, numbers_of
from eval.results.per_item import Items, Mean


def items(hits, clusters=None):
    clusters = list(range(len(hits))) if clusters is None else clusters
    return Items({"image": clusters, "hit": list(hits)}, {"b/accuracy": Mean("hit")}, "image")


def test_numbers_are_means_of_ratios_of_sums_over_groups():
    columns = {
        "image": ["a", "a", "b", "c"],
        "label": [7, 7, 3, 5],
        "hit": [True, False, True, False],
        "pixels": [3, 1, 2, 0],
    }
    means = {"top1": Mean("hit"), "mean": Mean("hit", group="label"), "ratio": Mean("hit", "pixels", "label")}
    assert numbers_of(Items(columns, means, "image")) == pytest.approx(
        {"top1": 2 / 4, "mean": (1 / 2 + 1 + 0) / 3, "ratio": (1 / 4 + 1 / 2) / 2}
    )


def test_the_interval_is_about_two_standard_errors_wide():
    hits = np.random.default_rng(1).random(2000) < 0.3
    low, high = intervals(items(hits.tolist()))["b/accuracy"]
    error = (0.3 * 0.7 / 2000) ** 0.5
    assert low < hits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_five_captions_of_an_image_are_no_five_images():
    hits = np.repeat(np.random.default_rng(2).random(300) < 0.5, 5).tolist()
    apart = intervals(items(hits))["b/accuracy"]
    together = intervals(items(hits, np.repeat(np.arange(300), 5).tolist()))["b/accuracy"]
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(5**0.5, rel=0.1)


def test_draws_in_parts_are_the_same(monkeypatch):
    hits = (np.random.default_rng(3).random(50) < 0.5).tolist()
    whole = intervals(items(hits), 101)
    monkeypatch.setattr("eval.results.compare.CELLS", 500)
    assert intervals(items(hits), 101) == whole


def test_the_paired_test_against_all_swaps():
    rng = np.random.default_rng(4)
    first, second = rng.random(12) < 0.3, rng.random(12) < 0.8
    difference = differences(items(first.tolist()), items(second.tolist()))["b/accuracy"]
    change = second.astype(int) - first
    swaps = (np.arange(2**12)[:, None] >> np.arange(12) & 1) * 2 - 1
    exact = (np.abs(swaps @ change) >= abs(change.sum())).mean()
    assert difference.size == pytest.approx(change.mean())
    assert difference.p == pytest.approx(exact, abs=0.02)
    assert difference.low <= difference.size <= difference.high


def test_equal_models_do_not_differ():
    hits = [True, False, True, True]
    assert differences(items(hits), items(hits))["b/accuracy"] == (0.0, 0.0, 0.0, 1.0)


def test_the_smallest_p_is_that_of_the_observed_order_alone():
    difference = differences(items([False] * 200), items([True] * 200))["b/accuracy"]
    assert difference.p == 1 / 10_001


def test_the_difference_is_paired():
    rng = np.random.default_rng(5)
    first = rng.random(1000) < 0.5
    second = first | (rng.random(1000) < 0.02)
    difference = differences(items(first.tolist()), items(second.tolist()))["b/accuracy"]
    assert difference.low > 0
    assert difference.p < 0.01
    assert difference.high - difference.low < 0.02  # each alone is known to 0.06 only


def test_other_items_are_not_compared():
    with pytest.raises(ValueError, match="the same items of the same benchmark"):
        differences(items([True]), items([True, False]))


MEANS = {
    "class mean": Mean("hit", group="class"),
    "IoU": Mean("inside", "union", "class"),
    "pixels": Mean("inside", "union"),
}


def grouped(seed, rows=60, clusters=9, classes=4):
    rng = np.random.default_rng(seed)
    union = rng.integers(0, 9, rows)
    columns = {
        "image": [f"image {n % clusters}" for n in range(rows)],
        "class": rng.integers(0, classes, rows).tolist(),
        "hit": (rng.random(rows) < 0.4 + 0.2 * seed).tolist(),
        "union": union.tolist(),
        "inside": [int(rng.integers(0, most + 1)) for most in union],
    }
    return Items(columns, MEANS, "image")


def loop(items, mean, times):
    """A number by its definition, each image so many times."""
    sums = {}
    for n, image in enumerate(items.columns["image"]):
        group = items.columns[mean.group][n] if mean.group else None
        value = items.columns[mean.value][n]
        weight = items.columns[mean.weight][n] if mean.weight else 1
        total, total_weight = sums.get(group, (0, 0))
        sums[group] = (total + times[image] * value, total_weight + times[image] * weight)
    ratios = [value / weight for value, weight in sums.values() if weight]
    return sum(ratios) / len(ratios)


def test_means_of_groups_are_drawn_as_they_are_defined():
    items = grouped(0)
    names = sorted(set(items.columns["image"]))
    draws = np.random.default_rng(0).integers(len(names), size=(200, len(names)))
    times = [{name: int((row == n).sum()) for n, name in enumerate(names)} for row in draws]
    by_name = intervals(items, 200)
    for name, mean in MEANS.items():
        expected = np.percentile([loop(items, mean, counts) for counts in times], [2.5, 97.5])
        assert by_name[name] == pytest.approx(tuple(expected))


@pytest.mark.parametrize("name", MEANS)
def test_models_are_swapped_image_by_image_in_every_group(name):
    first, second, mean = grouped(0), grouped(1), MEANS[name]
    second = Items({**second.columns, "class": first.columns["class"]}, MEANS, "image")
    names = sorted(set(first.columns["image"]))

    def difference(swapped):
        """What the two models differ by where they have swapped their answers about some images."""
        ours, theirs = ({key: list(values) for key, values in m.columns.items()} for m in (first, second))
        for n, image in enumerate(first.columns["image"]):
            if image in swapped:
                for key in ours:
                    ours[key][n], theirs[key][n] = theirs[key][n], ours[key][n]
        times = dict.fromkeys(names, 1)
        return loop(Items(theirs, MEANS, "image"), mean, times) - loop(Items(ours, MEANS, "image"), mean, times)

    observed = difference(set())
    all_differences = [difference({n for b, n in enumerate(names) if bits >> b & 1}) for bits in range(2 ** len(names))]
    result = differences(first, second)[name]
    assert result.size == pytest.approx(observed)
    assert result.p == pytest.approx(np.mean(np.abs(all_differences) >= abs(observed) - 1e-12), abs=0.02)
    assert result.low <= result.size <= result.high


def test_rows_with_a_weight_may_differ_but_not_their_images():
    first = Items(
        {"image": ["a", "b"], "class": [0, 1], "inside": [1, 1], "union": [2, 2]}, {"x": MEANS["IoU"]}, "image"
    )
    columns = {"image": ["a", "a", "b"], "class": [0, 2, 1], "inside": [1, 0, 2], "union": [2, 1, 2]}
    difference = differences(first, Items(columns, {"x": MEANS["IoU"]}, "image"))["x"]
    assert difference.size == pytest.approx((1 / 2 + 0 + 1) / 3 - (1 / 2 + 1 / 2) / 2)
    with pytest.raises(ValueError, match="the same items"):
        differences(first, Items({**columns, "image": ["a", "a", "c"]}, {"x": MEANS["IoU"]}, "image"))


def test_retention_by_hand():
    start = {
        "flickr30k/text_to_image/R@1": 0.5,
        "flickr30k/image_to_text/R@1": 0.8,
        "imagenet/top1": 0.6,
        "x/top1": 1.0,
    }
    tuned = {"flickr30k/text_to_image/R@1": 0.6, "flickr30k/image_to_text/R@1": 0.4, "imagenet/top1": 0.54}
    ratios = retention(start, tuned)
    assert ratios["retention/flickr30k"] == pytest.approx((1.2 + 0.5) / 2)
    assert ratios["retention/imagenet"] == pytest.approx(0.9)
    assert ratios["retention"] == pytest.approx((0.85 + 0.9) / 2)
    assert retention({}, {}) == {}
    with pytest.raises(ValueError, match="score above 0, got 0 for imagenet/top1"):
        retention({"imagenet/top1": 0.0}, {"imagenet/top1": 0.1})
