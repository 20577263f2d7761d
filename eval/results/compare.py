"""Confidence intervals and the comparison of two models: bootstrap and paired test over the same items.

Items that belong together (an image's five captions) are resampled together, as clusters; else intervals are too
narrow. The interval is the bootstrap's 2.5 to 97.5 percent; for a difference it is paired: both models are resampled on
the same items. The test swaps the two models' answers at random, cluster by cluster, and computes how often the
difference is as large as the observed one (Fisher's randomisation test, two-sided).

Numbers are means over groups of ratios of sums (``per_item.Mean``), so that a draw or a swap needs only a sum per
cluster and group. In a draw, a mean over classes is taken over the classes that occur in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from eval.results.per_item import Items, Mean

DRAWS, SWAPS, CELLS = 1000, 10_000, 1_000_000  # CELLS bounds memory
TAILS = (2.5, 97.5)


class Interval(NamedTuple):
    """95 % of the bootstrap."""

    low: float
    high: float


class Difference(NamedTuple):
    """The second model's number less the first's, its interval, and the p-value."""

    size: float
    low: float
    high: float
    p: float


def numbers_of(items: Items) -> dict[str, float]:
    """The numbers that a table's columns define, by name."""
    numbers = {}
    for name, mean in items.means.items():
        (sums,) = _sums([items], mean)
        numbers[name] = float(sums.means(np.ones((1, sums.clusters)))[0])
    return numbers


def intervals(items: Items, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """The bootstrap's interval of each number, by name."""
    by_name = {}
    for name, mean in items.means.items():
        (sums,) = _sums([items], mean)
        values = [sums.means(times) for times in _draws(sums, draws, seed)]
        by_name[name] = Interval(*_tails(values))
    return by_name


def differences(first: Items, second: Items, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """The second model's numbers less the first's, by name.

    Raises ValueError where the two tables hold different items.
    """
    by_name = {}
    for name, mean in first.means.items():
        if not _same_items(first, second, mean) or second.means.get(name) != mean:
            raise ValueError("models can only be compared on the same items of the same benchmark")
        before, after = _sums([first, second], mean)
        values = [after.means(times) - before.means(times) for times in _draws(before, draws, seed)]
        once = np.ones((1, before.clusters))
        size = float((after.means(once) - before.means(once))[0])
        low, high = _tails(values)
        by_name[name] = Difference(size, low, high, _p_value(before, after, size, seed))
    return by_name


class _Sums(NamedTuple):
    """The sums that each cluster adds to each group, for the pairs of both that occur, sorted by group."""

    clusters: int
    cluster: Int[np.ndarray, " P"]
    starts: Int[np.ndarray, " G"]  # where a group's pairs begin
    value: Float[np.ndarray, " P"]
    weight: Float[np.ndarray, " P"]

    def totals(self, times: Float[np.ndarray, "d C"]) -> tuple[Float[np.ndarray, "d G"], Float[np.ndarray, "d G"]]:
        """Value and weight summed over each group, with every cluster counted ``times``."""
        times = times[:, self.cluster]
        value, weight = (self._over_groups(times, column) for column in (self.value, self.weight))
        return value, weight

    def means(self, times: Float[np.ndarray, "d C"]) -> Float[np.ndarray, " d"]:
        """The number of each row of ``times``; NaN where no group has any weight."""
        return _mean_ratio(*self.totals(times))

    def _over_groups(
        self, times: Float[np.ndarray, "d P"], column: Float[np.ndarray, " P"]
    ) -> Float[np.ndarray, "d G"]:
        if not column.any():
            return np.zeros((len(times), len(self.starts)))
        if len(self.starts) == 1:
            return (times @ column)[:, None]
        return np.add.reduceat(times * column, self.starts, axis=1)

    def changed(self, value: Float[np.ndarray, " P"], weight: Float[np.ndarray, " P"]) -> tuple[_Sums, np.ndarray]:
        """The pairs whose value or weight changes, with the changes, and their groups."""
        changes = (value != 0) | (weight != 0)
        group = np.repeat(np.arange(len(self.starts)), np.diff([*self.starts, len(self.cluster)]))[changes]
        groups, starts = np.unique(group, return_index=True)
        return _Sums(self.clusters, self.cluster[changes], starts, value[changes], weight[changes]), groups


def _mean_ratio(value: Float[np.ndarray, "d G"], weight: Float[np.ndarray, "d G"]) -> Float[np.ndarray, " d"]:
    present = weight > 0
    ratios = np.divide(value, weight, out=np.zeros_like(value), where=present)
    return np.divide(ratios.sum(1), present.sum(1), out=np.full(len(value), np.nan), where=present.any(1))


def _sums(tables: list[Items], mean: Mean) -> list[_Sums]:
    """The sums of each model, for the same pairs of cluster and group in the same order."""
    clusters = np.concatenate([np.asarray(items.columns[items.cluster]) for items in tables])
    names, cluster = np.unique(clusters, return_inverse=True)
    if mean.group is None:
        group = np.zeros(len(cluster), dtype=np.int64)
    else:
        group = np.unique(np.concatenate([np.asarray(i.columns[mean.group]) for i in tables]), return_inverse=True)[1]
    pairs, pair = np.unique(group * len(names) + cluster, return_inverse=True)
    starts = np.unique(pairs // len(names), return_index=True)[1]
    all_sums, first = [], 0
    for items in tables:
        rows = pair[first : first + len(items.columns[mean.value])]
        first += len(rows)
        value, weight = (
            np.bincount(rows, np.asarray(column, dtype=np.float64), len(pairs))
            for column in (items.columns[mean.value], _weights(items, mean))
        )
        all_sums.append(_Sums(len(names), pairs % len(names), starts, value, weight))
    return all_sums


def _weights(items: Items, mean: Mean) -> list[float]:
    return [1.0] * len(items.columns[mean.value]) if mean.weight is None else items.columns[mean.weight]


def _same_items(first: Items, second: Items, mean: Mean) -> bool:
    """True if both tables have the same rows; with weights, rows may differ, but their clusters may not."""
    clusters, other_clusters = first.columns[first.cluster], second.columns[second.cluster]
    return clusters == other_clusters if mean.weight is None else set(clusters) == set(other_clusters)


def _tails(values: list[Float[np.ndarray, " d"]]) -> tuple[float, float]:
    low, high = np.nanpercentile(np.concatenate(values), TAILS).tolist()
    return low, high


def _draws(sums: _Sums, draws: int, seed: int) -> Iterator[Float[np.ndarray, "d C"]]:
    """Counts of each cluster in each of ``draws`` with replacement; as many draws at once as fit."""
    rng = np.random.default_rng(seed)
    count = sums.clusters
    height = max(1, CELLS // max(count, len(sums.cluster)))
    for done in range(0, draws, height):
        rows = min(height, draws - done)
        indices = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(indices.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _p_value(before: _Sums, after: _Sums, size: float, seed: int) -> float:
    """Share of random swaps, the identity included, whose difference is as large as the observed one."""
    change, groups = before.changed(after.value - before.value, after.weight - before.weight)
    if len(groups) == 0:
        return 1.0
    once = np.ones((1, before.clusters))
    totals_before, totals_after = before.totals(once), after.totals(once)
    swappable, cluster = np.unique(change.cluster, return_inverse=True)
    change = change._replace(clusters=len(swappable), cluster=cluster)
    rng, reached = np.random.default_rng(seed), 1
    height = max(1, CELLS // max(len(cluster), len(before.starts)))
    for done in range(0, SWAPS, height):
        times = rng.integers(2, size=(min(height, SWAPS - done), len(swappable)), dtype=np.int8).astype(np.float64)
        value, weight = (np.zeros((len(times), len(before.starts))) for _ in range(2))
        value[:, groups], weight[:, groups] = change.totals(times)
        first = _mean_ratio(totals_before[0] + value, totals_before[1] + weight)
        second = _mean_ratio(totals_after[0] - value, totals_after[1] - weight)
        reached += int((np.abs(second - first) >= abs(size) - 1e-12).sum())
    return reached / (SWAPS + 1)
