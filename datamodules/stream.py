"""Remote shards as they come: an order from (seed, pass), resumable to the shard and sample.

Each reader (a worker of a rank) has an endless sequence of its own (``datamodules.shard_sequence``) and makes every
n-th batch of its rank. Its place follows from the number of batches made and from how many samples the shards before
hold. Readers note these counts as they go, in memory shared with the main process; they travel in checkpoints. So a
resumed run opens no shard that it has done with. It repeats the uninterrupted run where ranks and workers are as they
were, and otherwise goes on with the same number of samples.

A sample that cannot be used is counted and replaced by another one of its window; a shard that cannot be fetched is
counted and left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.batch import Batch, Skip
from datamodules.collate import Item, Preparer, collate, empty_batch
from datamodules.indexed import prepared, sample_id
from datamodules.mixture import Mixture
from datamodules.sample import SampleError
from datamodules.shard_sequence import UNKNOWN, ShardSequence, Share, Slot
from datamodules.skips import DataError, SkipNotes, SkipPolicy, ended


class StreamBatches(IterableDataset[Batch]):
    """Training batches of one rank; the same interface as ``IndexedBatches``.

    Args:
        sources: the shards' URLs of each source, the same on every rank.
        weights: how often each source's samples come.
        prepare: from a stored sample to an item of the batch.
        batch_size: images per batch and rank.
        seed: of order and randomness.
        shuffle: samples that are mixed at least.
        rank, ranks: this process among all.
        skip: what to do about samples that cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[list[str]],
        weights: Sequence[float],
        prepare: Preparer,
        batch_size: int,
        *,
        seed: int,
        shuffle: int,
        rank: int,
        ranks: int,
        skip: SkipPolicy,
    ) -> None:
        super().__init__()
        self.sources, self.mixture, self.prepare = list(sources), Mixture(weights), prepare
        self.batch_size, self.global_batch = batch_size, batch_size * ranks
        self.seed, self.shuffle, self.rank, self.ranks, self.skip = seed, shuffle, rank, ranks, skip
        self.counts = torch.full((sum(map(len, self.sources)),), UNKNOWN).share_memory_()
        self.first = self.batches = 0

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> DataLoader[Batch]:
        """Loads ``batches`` batches from the one on that ``position`` samples come before."""
        self.first, self.batches = position // self.global_batch, batches
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)

    @property
    def samples(self) -> int | None:
        """Samples of a pass; None as long as no one has opened all shards."""
        return None if (self.counts == UNKNOWN).any() else int(self.counts.sum())

    def known_counts(self) -> list[int]:
        """How many samples each shard holds, as far as any rank has opened it. Collective: every rank must call it."""
        ranks = [self.counts.tolist()]
        if dist.is_initialized():
            ranks = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, self.counts.tolist())
        return [max(known) for known in zip(*ranks, strict=True)]

    def take_up(self, counts: list[int] | None) -> None:
        """Counts of an earlier run, of the same shards."""
        if counts is not None and len(counts) == len(self.counts):
            self.counts.copy_(torch.tensor(counts))

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = _worker()
        reader = (self.first + worker) % workers  # the loader asks its workers in turn; the first makes batch ``first``
        made = len(range(reader, self.first, workers))
        mine = len(range(worker, self.batches, workers))
        notes = SkipNotes()
        items = self._items(Share(self.rank * workers + reader, self.ranks * workers), made * self.batch_size, notes)
        for _ in range(mine):
            yield collate(list(itertools.islice(items, self.batch_size)), notes.take())

    def _items(self, share: Share, position: int, notes: SkipNotes) -> Iterator[Item]:
        """A reader's items from ``position`` of its sequence on, sources interleaved."""
        counts = self.counts.split([len(urls) for urls in self.sources])
        streams = [
            self._items_of(ShardSequence(urls, counts[i], share, f"{self.seed}/{i}", self.shuffle), done, notes)
            for i, (urls, done) in enumerate(zip(self.sources, self.mixture.counts(position), strict=True))
        ]
        for at in itertools.count(position):
            yield next(streams[self.mixture.at(at)[0]])

    def _items_of(self, sequence: ShardSequence, done: int, notes: SkipNotes) -> Iterator[Item]:
        for (epoch, slots), first in sequence.windows(done, notes):
            for i in range(first, len(slots)):
                yield self._item(slots, i, f"{sequence.seed}/{epoch}", notes)

    def _item(self, slots: list[Slot], i: int, draws: str, notes: SkipNotes) -> Item:
        for attempt in range(-1, len(slots)):
            slot = slots[i] if attempt < 0 else slots[(i + len(slots) // 2 + attempt) % len(slots)]
            item = _try(slot, self.prepare, draws if attempt < 0 else f"{draws}/for {i}", notes)
            if item is not None:
                return item
        raise DataError(ended(f"none of {len(slots)} samples can be used", notes.last))


class StreamPass(IterableDataset[Batch]):
    """Every sample once, split over ranks and workers; how many there are is not known beforehand."""

    def __init__(
        self, urls: list[str], prepare: Preparer, batch_size: int, *, seed: int, rank: int, ranks: int, skip: SkipPolicy
    ) -> None:
        super().__init__()
        self.urls, self.prepare, self.batch_size, self.seed = urls, prepare, batch_size, seed
        self.rank, self.ranks, self.skip = rank, ranks, skip

    def loader(self, workers: int, **settings: Any) -> DataLoader[Batch]:
        """Loads them all."""
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = _worker()
        notes = SkipNotes()
        items = self._items(Share(self.rank * workers + worker, self.ranks * workers), notes)
        item = next(items, None)
        while item is not None:  # one item ahead: skips at the very end still travel with the last batch
            chunk = [item]
            while (item := next(items, None)) is not None and len(chunk) < self.batch_size:
                chunk.append(item)
            yield collate(chunk, notes.take())
        if left := notes.take():  # no batch was made at all
            yield empty_batch(self.prepare, left)

    def _items(self, share: Share, notes: SkipNotes) -> Iterator[Item]:
        counts = torch.full((len(self.urls),), UNKNOWN)
        for (_, slots), _ in ShardSequence(self.urls, counts, share, None, 1).windows(0, notes):
            for slot in slots:
                item = _try(slot, self.prepare, f"{self.seed}/0", notes)
                if item is not None:
                    yield item


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _try(slot: Slot, prepare: Preparer, draws: str, notes: SkipNotes) -> Item | None:
    """The item of a sample; None, and counted, where it cannot be used."""
    key = slot.shard.index.key(slot.number)
    name = slot.shard.url.rpartition("/")[2]  # moving the data must not change what is drawn
    try:
        members = slot.shard.read(slot.number)
        return prepared(members, prepare, f"{draws}/{name}/{slot.number}", sample_id(slot.shard.url, slot.number))
    except SampleError as error:
        notes.add(Skip(error.reason, slot.shard.url, key, str(error)))
    except Exception as error:
        raise DataError(f"{slot.shard.url}, sample {key!r}: {error!r}") from error
    return None
