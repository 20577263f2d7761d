"""Local shards by index: the exact order of ``datamodules.order``, whatever the number of ranks and workers.

A batch is asked for by the position of its global batch and made of this rank's slice. So nothing is kept between
batches, a worker may make any of them, and a run goes on from the number of samples seen. Randomness of a sample comes
from (seed, pass, its number).

A sample that cannot be used is counted and replaced by another one of the same pass: no position moves, and every rank
makes its number of batches.
"""

from __future__ import annotations

import logging
import os
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch, Skip
from datamodules.collate import Item, Preparer, collate, empty_batch
from datamodules.mixture import Mixture
from datamodules.order import Order, Place, Schedule
from datamodules.sample import Sample, SampleError
from datamodules.shards import Shard
from datamodules.skips import DataError, SkipNotes, SkipPolicy, ended
from datamodules.tar_index import TarIndex
from datamodules.tokenizer import word_hash

logger = logging.getLogger("grainclip")

_OPEN = 128  # files a process keeps open
_TRIES = 100  # substitutes before a run gives up


class Source(NamedTuple):
    """The shards of one source and where their samples lie."""

    urls: list[str]
    indices: list[TarIndex]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> Source:
        """Raises ``ShardError`` where a shard is damaged. Members that belong to no sample are told."""
        indices = [shard.index() for shard in shards]
        strays = [(shard.url, index) for shard, index in zip(shards, indices, strict=True) if index.strays]
        if strays:
            url, index = strays[0]
            logger.warning(
                "%s members of %s shards belong to no sample and are not read, such as %r of %s",
                *(sum(index.strays for _, index in strays), len(strays), index.stray, url),
            )
        return cls([shard.url for shard in shards], indices)

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [len(index) for index in self.indices]


class TarReader:
    """Reads samples of a source by number. Keeps the files that it used last open."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._ends = list(accumulate(source.sizes))
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": OrderedDict()}

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)

    def name(self, number: int) -> tuple[str, str]:
        """The shard and the key of a sample."""
        shard, entry = self._find(number)
        return self.source.urls[shard], self.source.indices[shard].key(entry)

    def id(self, number: int) -> int:
        """A sample's identity: ``sample_id`` of its shard and its number in that."""
        shard, entry = self._find(number)
        return sample_id(self.source.urls[shard], entry)

    def read(self, number: int) -> dict[str, Any]:
        """A sample's members, still encoded. Raises ``SampleError`` (reason ``shard``) where that fails."""
        shard, entry = self._find(number)
        return self.source.indices[shard].read(self._file(shard), entry)

    def _find(self, number: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        try:
            file = os.open(self.source.urls[shard], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise SampleError("shard", f"the shard cannot be opened: {error}") from error
        self._files[shard] = file
        if len(self._files) > _OPEN:
            os.close(self._files.popitem(last=False)[1])
        return file


def sample_id(shard: str, number: int) -> int:
    """A 64-bit identity of a shard's ``number``-th sample. A key is none: many writers count anew in each shard."""
    return word_hash(f"{shard}/{number}")


def prepared(members: dict[str, Any], prepare: Preparer, draws: str, identity: int) -> Item:
    """An item of the batch from a sample's members; ``draws`` names its random choices. Raises ``SampleError``."""
    item = prepare(Sample.from_members(members), random.Random(draws))
    item.id = identity
    return item


class IndexedBatches(Dataset[Batch]):
    """Training batches of one rank: ``self[position]`` is its part of the global batch that begins at ``position``.

    Args:
        sources: what is read.
        weights: how often each source's samples come.
        prepare: from a stored sample to an item of the batch.
        batch_size: images per batch and rank.
        seed: of order and randomness.
        window: shards whose samples are mixed.
        rank, ranks: this process among all.
        skip: what to do about samples that cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        prepare: Preparer,
        batch_size: int,
        *,
        seed: int,
        window: int,
        rank: int,
        ranks: int,
        skip: SkipPolicy,
    ) -> None:
        self.readers = [TarReader(source) for source in sources]
        orders = [Order(s.sizes, f"{seed}/{i}" if i else seed, window) for i, s in enumerate(sources)]
        self.samples = sum(order.samples for order in orders)
        self.schedule = Schedule(orders, Mixture(weights))
        self.prepare, self.batch_size, self.seed = prepare, batch_size, seed
        self.rank, self.global_batch = rank, batch_size * ranks
        self.skip, self._notes = skip, SkipNotes()

    def __getitem__(self, position: int) -> Batch:
        first = position + self.rank * self.batch_size
        items = [self._item(p) for p in range(first, first + self.batch_size)]
        return collate(items, self._notes.take())

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> DataLoader[Batch]:
        """Loads ``batches`` batches from ``position`` on."""
        starts = range(position, position + batches * self.global_batch, self.global_batch)
        return DataLoader(self, batch_size=None, sampler=starts, num_workers=workers, **settings)

    def _item(self, position: int) -> Item:
        wanted = self.schedule.at(position)
        item = self._try(wanted, f"{self.seed}/{wanted.source}/{wanted.epoch}/{wanted.index}")
        for attempt in range(_TRIES):
            if item is not None:
                return item
            place = self.schedule.substitute(position, attempt)
            item = self._try(place, f"{self.seed}/{place.source}/{place.epoch}/{place.index}/for {wanted.index}")
        raise DataError(ended(f"{_TRIES} samples in a row cannot be used", self._notes.last))

    def _try(self, place: Place, draws: str) -> Item | None:
        return try_item(self.readers[place.source], place.index, self.prepare, draws, self._notes)


class IndexedPass(Dataset[Batch]):
    """Every sample once, in the shards' order, split over ranks; ``self[i]`` is this rank's ``i``-th batch.

    All ranks have equally many batches, since losses over all ranks and sliced weights make them wait for each other: a
    rank with a sample less takes it from its last full batch. A batch of which no sample can be used is empty.
    """

    def __init__(
        self, source: Source, prepare: Preparer, batch_size: int, *, seed: int, rank: int, ranks: int, skip: SkipPolicy
    ) -> None:
        self.reader = TarReader(source)
        self.prepare, self.batch_size, self.seed = prepare, batch_size, seed
        self.mine = range(rank, len(self.reader), ranks)
        self.batches = -(-len(range(0, len(self.reader), ranks)) // batch_size)
        self.skip, self._notes = skip, SkipNotes()

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:
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
        """Loads them all."""
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)


def try_item(reader: TarReader, number: int, prepare: Preparer, draws: str, notes: SkipNotes) -> Item | None:
    """The item of sample ``number``; None, and a note, where it cannot be used."""
    shard, key = reader.name(number)
    try:
        return prepared(reader.read(number), prepare, draws, reader.id(number))
    except SampleError as error:
        notes.add(Skip(error.reason, shard, key, str(error)))
    except Exception as error:
        raise DataError(f"{shard}, sample {key!r}: {error!r}") from error
    return None
