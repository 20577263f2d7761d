"""Chooses the reader for shards: local ones by index, in an exact order; remote ones as a stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.batching.collate import SamplePreprocessor
from datamodules.reading.bad_samples import SkipPolicy
from datamodules.reading.local_shards import IndexedBatches, IndexedPass
from datamodules.reading.remote_shards import StreamBatches, StreamPass
from datamodules.shards.discovery import Shard
from datamodules.shards.download import FetchPolicy
from datamodules.shards.reader import IndexedShards

_SLOW_INDEXING = 10.0  # seconds of indexing after which a hint is due

logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class Reading:
    """The settings of both readers, and the choice between them.

    Args:
        prepare: from a stored sample to an item of the batch.
        batch_size: images per batch and rank.
        seed: of order and randomness.
        rank, ranks: this process among all.
        skip: what to do about samples that cannot be used.
        fetch: time limits and retries for remote storage.
    """

    prepare: SamplePreprocessor
    batch_size: int
    seed: int
    rank: int
    ranks: int
    skip: SkipPolicy
    fetch: FetchPolicy = FetchPolicy()

    def train(
        self,
        sources: Sequence[Sequence[Shard]],
        weights: Sequence[float] | None,
        shuffle_shards: int,
        shuffle_samples: int,
    ) -> IndexedBatches | StreamBatches:
        """Endless batches of ``sources``, each giving its share of the samples (``weights`` None: there is one source).

        One remote shard makes all of them a stream. Raises ``ShardError`` where a local shard is damaged.
        """
        weights = weights or [1.0]
        if any(shard.samples is None for source in sources for shard in source):
            urls = [[shard.url for shard in source] for source in sources]
            return StreamBatches(
                urls, weights, self.prepare, self.batch_size, seed=self.seed,
                shuffle_samples=shuffle_samples, rank=self.rank, ranks=self.ranks, skip=self.skip, fetch=self.fetch,
            )  # fmt: skip
        return IndexedBatches(
            [_indexed(source) for source in sources], weights, self.prepare, self.batch_size, seed=self.seed,
            shuffle_shards=shuffle_shards, rank=self.rank, ranks=self.ranks, skip=self.skip,
        )  # fmt: skip

    def once(self, shards: Sequence[Shard]) -> IndexedPass | StreamPass:
        """A pass over every sample once, in order."""
        settings = {"seed": self.seed, "rank": self.rank, "ranks": self.ranks}
        if any(shard.samples is None for shard in shards):
            urls = [shard.url for shard in shards]
            return StreamPass(urls, self.prepare, self.batch_size, **settings, skip=self.skip, fetch=self.fetch)
        return IndexedPass(_indexed(shards), self.prepare, self.batch_size, **settings, skip=self.skip)


def _indexed(shards: Sequence[Shard]) -> IndexedShards:
    start = time.monotonic()
    source = IndexedShards.of(shards)
    if (seconds := time.monotonic() - start) > _SLOW_INDEXING:
        logger.info(
            "finding the samples in %d shards took %.0f s; `lightning index` does it once and for all",
            len(shards), seconds,
        )  # fmt: skip
    return source
