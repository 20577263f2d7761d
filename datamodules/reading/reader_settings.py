"""The settings that all readers of shards share."""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.batching.collate import SamplePreprocessor
from datamodules.reading.bad_samples import SkipPolicy
from datamodules.shards.download import FetchPolicy


@dataclass(frozen=True)
class ReaderSettings:
    """The settings of a reader.

    Args:
        prepare: turns a stored sample into an item of the batch.
        batch_size: images per batch and rank.
        seed: of order and random choices.
        rank, ranks: this process among all.
        skip: how many samples may be unusable.
        fetch: time limits and retries for remote storage.
    """

    prepare: SamplePreprocessor
    batch_size: int
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    skip: SkipPolicy = SkipPolicy()
    fetch: FetchPolicy = FetchPolicy()

    @property
    def global_batch(self) -> int:
        """Images per batch over all ranks."""
        return self.batch_size * self.ranks
