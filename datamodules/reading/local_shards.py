"""Local shards by index: the exact order of ``reading.shuffle_order``, whatever the number of ranks and workers.

A batch is read by the position of its global batch: it is this rank's slice of it. So there is no state between
batches, any worker may make any of them, and a run resumes from the number of samples seen. A sample's random choices
come from (seed, pass, its number).

A sample that cannot be used is counted and replaced by another one of the same pass, so positions and the number of
batches of each rank stay the same.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch
from datamodules.batching.collate import PreparedSample, SamplePreprocessor, collate, empty_batch
from datamodules.reading.bad_samples import DataError, SkipNotes, SkipPolicy, with_last_skip
from datamodules.reading.mixture import Mixture
from datamodules.reading.shuffle_order import SamplePosition, SampleSequence, ShuffleOrder
from datamodules.sample import Sample
from datamodules.shards.reader import IndexedShards, TarReader

logger = logging.getLogger("grainclip")

_TRIES = 100  # substitutes before the run stops


def prepared(members: dict[str, Any], prepare: SamplePreprocessor, draws: str, identity: int) -> PreparedSample:
    """An item of the batch from a sample's members; ``draws`` names its random choices. Raises ``SampleError``."""
    item = prepare(Sample.from_members(members), random.Random(draws))
    item.id = identity
    return item


def try_item(
    reader: TarReader, number: int, prepare: SamplePreprocessor, draws: str, notes: SkipNotes
) -> PreparedSample | None:
    """The item of sample ``number``; None, and a note, where it cannot be used."""
    with notes.noting(*reader.name(number)):
        return prepared(reader.read(number), prepare, draws, reader.id(number))
    return None


class IndexedBatches(Dataset[Batch]):
    """Training batches of one rank: ``self[position]`` is its part of the global batch that begins at ``position``.

    Args:
        sources: what is read.
        weights: how often each source's samples come.
        prepare: from a stored sample to an item of the batch.
        batch_size: images per batch and rank.
        seed: of order and randomness.
        shuffle_shards: shards whose samples are mixed.
        rank, ranks: this process among all.
        skip: what to do about samples that cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[IndexedShards],
        weights: Sequence[float],
        prepare: SamplePreprocessor,
        batch_size: int,
        *,
        seed: int,
        shuffle_shards: int,
        rank: int,
        ranks: int,
        skip: SkipPolicy,
    ) -> None:
        self.readers = [TarReader(source) for source in sources]
        orders = [ShuffleOrder(s.sizes, f"{seed}/{i}" if i else seed, shuffle_shards) for i, s in enumerate(sources)]
        self.samples = sum(order.samples for order in orders)
        self.schedule = SampleSequence(orders, Mixture(weights))
        self.prepare, self.batch_size, self.seed = prepare, batch_size, seed
        self.rank, self.global_batch = rank, batch_size * ranks
        self.skip, self._notes = skip, SkipNotes()

    def __getitem__(self, position: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        first = position + self.rank * self.batch_size
        items = [self._item(p) for p in range(first, first + self.batch_size)]
        return collate(items, self._notes.take())

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> DataLoader[Batch]:
        """A loader of ``batches`` batches from ``position`` on."""
        starts = range(position, position + batches * self.global_batch, self.global_batch)
        return DataLoader(self, batch_size=None, sampler=starts, num_workers=workers, **settings)

    def _item(self, position: int) -> PreparedSample:
        sample = self.schedule.at(position)
        item = self._try(sample, f"{self.seed}/{sample.source}/{sample.epoch}/{sample.index}")
        for attempt in range(_TRIES):
            if item is not None:
                return item
            substitute = self.schedule.substitute(position, attempt)
            item = self._try(
                substitute, f"{self.seed}/{substitute.source}/{substitute.epoch}/{substitute.index}/for {sample.index}"
            )
        raise DataError(with_last_skip(f"{_TRIES} samples in a row cannot be used", self._notes.last))

    def _try(self, sample: SamplePosition, draws: str) -> PreparedSample | None:
        return try_item(self.readers[sample.source], sample.index, self.prepare, draws, self._notes)


class IndexedPass(Dataset[Batch]):
    """Every sample once, in the shards' order, split over ranks; ``self[i]`` is this rank's ``i``-th batch.

    All ranks have the same number of batches, since losses over all ranks and sharded weights make them wait for each
    other: a rank with one sample less has a smaller last batch. A batch without a usable sample is empty.
    """

    def __init__(
        self,
        source: IndexedShards,
        prepare: SamplePreprocessor,
        batch_size: int,
        *,
        seed: int,
        rank: int,
        ranks: int,
        skip: SkipPolicy,
    ) -> None:
        self.reader = TarReader(source)
        self.prepare, self.batch_size, self.seed = prepare, batch_size, seed
        self.mine = range(rank, len(self.reader), ranks)
        self.batches = -(-len(range(0, len(self.reader), ranks)) // batch_size)
        self.skip, self._notes = skip, SkipNotes()

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        items = []
        for index in self.mine[self._start(number) : self._start(number + 1)]:
            item = try_item(self.reader, index, self.prepare, f"{self.seed}/{index}", self._notes)
            items += [] if item is None else [item]
        return collate(items, self._notes.take()) if items else empty_batch(self.prepare, self._notes.take())

    def _start(self, number: int) -> int:
        """The first sample of a batch: full ones come first, and one sample at least remains for each of the others,
        where there are so many.
        """
        return min(number * self.batch_size, max(len(self.mine) - (self.batches - number), 0))

    def loader(self, workers: int, **settings: Any) -> DataLoader[Batch]:
        """A loader of all batches."""
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)
