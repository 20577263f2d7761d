"""The order of samples: a function of (seed, position) alone, the same for any number of ranks and workers.

Positions count the samples that all ranks together have been given since training began. Pass follows pass over a
source without a gap: the batch that reaches the end of one is filled with the first samples of the next, so every
sample comes exactly once per pass whatever the batch size. A pass permutes the shards, then the samples within windows
of some shards, which keeps reads local where storage is far away. Several sources are interleaved by
``datamodules.reading.mixture``.

All permutations sort hashes that are computed here, so they stay the same with every version of NumPy.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from datamodules.reading.mixture import Mixture


class SamplePosition(NamedTuple):
    """One sample of a mixture: its source, the pass over that source, and its number in the source."""

    source: int
    epoch: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index


def hash_key(*parts: int | str) -> int:
    """64 bits from anything that names a random choice."""
    raw = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def permutation(size: int, key: int) -> Int[np.ndarray, " size"]:
    """The numbers below ``size`` in an order that ``key`` decides."""
    return np.argsort(_mixed(np.arange(size, dtype=np.uint64), key), kind="stable")


def _mixed(numbers: UInt64[np.ndarray, " n"], key: int) -> UInt64[np.ndarray, " n"]:
    """Splitmix64's finaliser over a counter that starts at ``key``."""
    with np.errstate(over="ignore"):
        x = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class ShuffleOrder:
    """The order of one source, pass after pass.

    Args:
        sizes: samples of each shard.
        seed: decides the order, with the number of the pass.
        window: shards whose samples are mixed.

    Raises:
        ValueError: there is no sample, or ``window`` is below 1.
    """

    def __init__(self, sizes: Sequence[int], seed: int | str, window: int) -> None:
        if sum(sizes) < 1:
            raise ValueError(f"an order needs at least one sample, got shards of {list(sizes)[:5]}")
        if window < 1:
            raise ValueError(f"window must be at least 1 shard, got {window}")
        self.sizes, self.seed, self.window = np.asarray(sizes, dtype=np.int64), seed, window
        self.samples = int(self.sizes.sum())
        self._starts = np.cumsum(self.sizes) - self.sizes  # a shard's first sample among all
        self._shards = lru_cache(maxsize=2)(self._shards_of)
        self._window = lru_cache(maxsize=2)(self._window_of)

    def __reduce__(self) -> tuple[type[ShuffleOrder], tuple[list[int], int | str, int]]:
        return type(self), (self.sizes.tolist(), self.seed, self.window)

    def at(self, position: int) -> tuple[int, int]:
        """(pass, number of the sample among all of the source) at ``position`` of the endless sequence."""
        epoch, offset = divmod(position, self.samples)
        _, ends = self._shards(epoch)
        number = bisect_right(ends, offset)
        start = ends[number - 1] if number else 0
        return epoch, int(self._window(epoch, number)[offset - start])

    def _shards_of(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """The shards in this pass's order, and where each window ends in the pass."""
        shards = permutation(len(self.sizes), hash_key(self.seed, epoch, "shards"))
        last = [*range(self.window, len(shards), self.window), len(shards)]
        return shards, np.cumsum(self.sizes[shards])[np.array(last) - 1].tolist()

    def _window_of(self, epoch: int, number: int) -> np.ndarray:
        shards, _ = self._shards(epoch)
        shards_of_window = shards[number * self.window : (number + 1) * self.window]
        samples = np.concatenate([np.arange(int(self.sizes[s])) + self._starts[s] for s in shards_of_window])
        return samples[permutation(len(samples), hash_key(self.seed, epoch, "window", number))]


class SampleSequence:
    """The sequence of a mixture's samples: ``mixture`` chooses the source, its one of ``orders`` the sample."""

    def __init__(self, orders: Sequence[ShuffleOrder], mixture: Mixture) -> None:
        self.orders, self.mixture = list(orders), mixture

    def at(self, position: int) -> SamplePosition:
        """The sample at ``position``."""
        source, source_position = self.mixture.at(position)
        return SamplePosition(source, *self.orders[source].at(source_position))

    def substitute(self, position: int, attempt: int) -> SamplePosition:
        """A substitute for an unusable sample: of the same source and pass, half a pass away, in another batch."""
        source, source_position = self.mixture.at(position)
        order = self.orders[source]
        epoch, offset = divmod(source_position, order.samples)
        return SamplePosition(
            source, *order.at(epoch * order.samples + (offset + order.samples // 2 + attempt) % order.samples)
        )
