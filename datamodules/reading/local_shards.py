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
from datamodules.reading.bad_samples import DataError, SkipNotes, with_last_skip
from datamodules.reading.mixture import Mixture
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.sample_source import SampleReader, SampleSource
from datamodules.reading.shuffle_order import SamplePosition, SampleSequence, ShuffleOrder
from datamodules.sample import Sample

logger = logging.getLogger("grainclip")

_TRIES = 100  # substitutes before the run stops


def prepared(members: dict[str, Any], prepare: SamplePreprocessor, draws: str, identity: int) -> PreparedSample:
    """An item of the batch from a sample's members; ``draws`` names its random choices. Raises ``SampleError``."""
    item = prepare(Sample.from_members(members), random.Random(draws))
    item.id = identity
    return item


def try_item(
    reader: SampleReader, number: int, prepare: SamplePreprocessor, draws: str, notes: SkipNotes
) -> PreparedSample | None:
    """The item of sample ``number``; None, and a note, where it cannot be used."""
    with notes.noting(*reader.name(number)):
        return prepared(reader.read(number), prepare, draws, reader.id(number))
    return None


class IndexedBatches(Dataset[Batch]):
    """Training batches of one rank: ``self[position]`` is its part of the global batch that begins at ``position``.

    Args:
        sources: local shards, or lists of image files and captions.
        weights: the sources' shares of the samples.
        settings: of the reader.
        shuffle_shards: shards whose samples are shuffled together.
    """

    def __init__(
        self, sources: Sequence[SampleSource], weights: Sequence[float], settings: ReaderSettings, shuffle_shards: int
    ) -> None:
        self.readers = [source.reader() for source in sources]
        seed = settings.seed
        orders = [ShuffleOrder(s.sizes, f"{seed}/{i}" if i else seed, shuffle_shards) for i, s in enumerate(sources)]
        self.samples = sum(order.samples for order in orders)
        self.schedule = SampleSequence(orders, Mixture(weights))
        self.settings, self.global_batch, self._notes = settings, settings.global_batch, SkipNotes()

    def __getitem__(self, position: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = self.settings.batch_size
        first = position + self.settings.rank * size
        items = [self._item(p) for p in range(first, first + size)]
        return collate(items, self._notes.take())

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> DataLoader[Batch]:
        """A loader of ``batches`` batches from ``position`` on."""
        starts = range(position, position + batches * self.global_batch, self.global_batch)
        return DataLoader(self, batch_size=None, sampler=starts, num_workers=workers, **settings)

    def _item(self, position: int) -> PreparedSample:
        sample = self.schedule.at(position)
        item = self._try(sample, "")
        for attempt in range(_TRIES):
            if item is not None:
                return item
            item = self._try(self.schedule.substitute(position, attempt), f"/for {sample.index}")
        raise DataError(with_last_skip(f"{_TRIES} samples in a row cannot be used", self._notes.last))

    def _try(self, sample: SamplePosition, suffix: str) -> PreparedSample | None:
        draws = f"{self.settings.seed}/{sample.source}/{sample.epoch}/{sample.index}{suffix}"
        return try_item(self.readers[sample.source], sample.index, self.settings.prepare, draws, self._notes)


class IndexedPass(Dataset[Batch]):
    """Every sample once, in the shards' order, split over ranks; ``self[i]`` is this rank's ``i``-th batch.

    All ranks have the same number of batches, since losses over all ranks and sharded weights make them wait for each
    other: a rank with one sample less has a smaller last batch. A batch without a usable sample is empty.
    """

    def __init__(self, source: SampleSource, settings: ReaderSettings) -> None:
        self.reader, self.settings, self._notes = source.reader(), settings, SkipNotes()
        self.mine = range(settings.rank, len(self.reader), settings.ranks)
        self.batches = -(-len(range(0, len(self.reader), settings.ranks)) // settings.batch_size)

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        items, prepare = [], self.settings.prepare
        for index in self.mine[self._start(number) : self._start(number + 1)]:
            item = try_item(self.reader, index, prepare, f"{self.settings.seed}/{index}", self._notes)
            items += [] if item is None else [item]
        return collate(items, self._notes.take()) if items else empty_batch(prepare, self._notes.take())

    def _start(self, number: int) -> int:
        """The first sample of a batch: batches are full, but leave at least one sample for each that follows."""
        return min(number * self.settings.batch_size, max(len(self.mine) - (self.batches - number), 0))

    def loader(self, workers: int, **settings: Any) -> DataLoader[Batch]:
        """A loader of all batches."""
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)
