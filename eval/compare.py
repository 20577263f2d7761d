"""How sure a number is, and whether two models differ: bootstrap and paired test over the same items.

Items that belong together (a picture's five captions) are drawn together, as clusters; else intervals come out too
narrow. The interval is the bootstrap's 2.5 to 97.5 percent; of a difference it is paired: both models are drawn on the
same items. The test swaps the two models' answers at random, cluster by cluster, and asks how often the difference
is as large as the one seen (Fisher's randomisation, two-sided).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from eval.items import Items

DRAWS, SWAPS, CELLS = 1000, 10_000, 10_000_000  # the last bounds memory
TAILS = (2.5, 97.5)


class Interval(NamedTuple):
    """95 % of the bootstrap."""

    low: float
    high: float


class Difference(NamedTuple):
    """Of the second model from the first: its size, its interval, and the chance of one as large between equals."""

    size: float
    low: float
    high: float
    p: float


def intervals(items: Items, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """By the name of each number that is a mean over items."""
    found = {}
    for name, column in items.means.items():
        sums, counts = _clusters(items, column)
        values = [sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in _draws(len(sums), draws, seed)]
        found[name] = Interval(*np.percentile(np.concatenate(values), TAILS).tolist())
    return found


def differences(first: Items, second: Items, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """The second model's means less the first's, by name.

    Raises ValueError where the two were not asked the same items.
    """
    if first.columns[first.cluster] != second.columns[second.cluster] or first.means != second.means:
        raise ValueError("models can only be compared on the same items of the same benchmark")
    found = {}
    for name, column in first.means.items():
        before, counts = _clusters(first, column)
        change = _clusters(second, column)[0] - before
        values = [change[drawn].sum(1) / counts[drawn].sum(1) for drawn in _draws(len(change), draws, seed)]
        low, high = np.percentile(np.concatenate(values), TAILS).tolist()
        found[name] = Difference(change.sum() / counts.sum(), low, high, _swapped(change, seed))
    return found


def _clusters(items: Items, column: str) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Sum and number of a column's values for each cluster."""
    _, of = np.unique(np.asarray(items.columns[items.cluster]), return_inverse=True)
    values = np.asarray(items.columns[column], dtype=np.float64)
    return np.bincount(of, values), np.bincount(of).astype(np.float64)


def _draws(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Clusters drawn with replacement, ``draws`` times in all, so many at once as memory allows."""
    rng = np.random.default_rng(seed)
    height = max(1, CELLS // clusters)
    for done in range(0, draws, height):
        yield rng.integers(clusters, size=(min(height, draws - done), clusters))


def _swapped(change: Float[np.ndarray, " C"], seed: int) -> float:
    """Share of random swaps, the one seen among them, whose total is as large as the one seen."""
    change = change[change != 0]
    rng, seen, reached = np.random.default_rng(seed), abs(change.sum()), 1
    height = max(1, CELLS // max(len(change), 1))
    for done in range(0, SWAPS, height):
        signs = rng.integers(2, size=(min(height, SWAPS - done), len(change))) * 2 - 1
        reached += int((np.abs(signs @ change) >= seen - 1e-9).sum())
    return reached / (SWAPS + 1)
