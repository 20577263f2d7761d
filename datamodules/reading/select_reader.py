"""Chooses the reader for shards: local ones by index, in an exact order; remote ones as a stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from datamodules.reading.local_shards import IndexedBatches, IndexedPass
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_shards import StreamBatches, StreamPass
from datamodules.reading.sample_source import SampleSource
from datamodules.shards.discovery import Shard
from datamodules.shards.reader import IndexedShards

_SLOW_INDEXING = 10.0  # seconds of indexing after which a hint is due

logger = logging.getLogger("grainclip")


def training_batches(
    sources: Sequence[Sequence[Shard]],
    weights: Sequence[float] | None,
    settings: ReaderSettings,
    shuffle_shards: int,
    shuffle_samples: int,
) -> IndexedBatches | StreamBatches:
    """Endless batches of ``sources``, each giving its share of the samples (``weights`` None: there is one source).

    One remote shard makes all of them a stream. Raises ``ShardError`` where a local shard is damaged.
    """
    weights = weights or [1.0]
    if any(shard.samples is None for source in sources for shard in source):
        urls = [[shard.url for shard in source] for source in sources]
        return StreamBatches(urls, weights, settings, shuffle_samples)
    return IndexedBatches([_indexed(source) for source in sources], weights, settings, shuffle_shards)


def single_pass(shards: Sequence[Shard], settings: ReaderSettings) -> IndexedPass | StreamPass:
    """A pass over every sample once, in order."""
    if any(shard.samples is None for shard in shards):
        return StreamPass([shard.url for shard in shards], settings)
    return IndexedPass(_indexed(shards), settings)


def _indexed(shards: Sequence[Shard]) -> SampleSource:
    if isinstance(shards, SampleSource):  # a list of image files and captions
        return shards
    start = time.monotonic()
    source = IndexedShards.of(shards)
    if (seconds := time.monotonic() - start) > _SLOW_INDEXING:
        logger.info(
            "finding the samples in %d shards took %.0f s; `lightning index` does it once and for all",
            len(shards), seconds,
        )  # fmt: skip
    return source
