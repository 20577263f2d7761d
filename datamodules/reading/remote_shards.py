"""Remote shards as a stream: an order from (seed, pass), resumable to the shard and sample.

Each reader (a worker of a rank) has an endless sequence of its own (``reading.remote_order``) and makes every
n-th batch of its rank. Its position follows from the number of batches made and the counts of the shards before.
Readers write these counts to memory shared with the main process, and send gaps, where a shard was not whole, along
with their batches; checkpoints hold both. So a resumed run does not reopen finished shards. With the same ranks and
workers it repeats the uninterrupted run; otherwise it continues after the same number of samples.

A sample that cannot be used is counted and replaced by another one of its window, or of the next where there is none.
A shard that cannot be fetched is counted with all its samples and left out of the pass.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.batch import Batch, Gap
from datamodules.batching.collate import PreparedSample, SamplePreprocessor, collate, empty_batch
from datamodules.reading.bad_samples import DataError, SkipNotes, with_last_skip
from datamodules.reading.local_shards import prepared
from datamodules.reading.mixture import Mixture
from datamodules.reading.ranks import gather
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_order import UNKNOWN, ShardSequence, Share, Slot
from datamodules.shards.reader import sample_id

_TRIES = 100  # samples in a row that cannot be used before a run gives up

logger = logging.getLogger("grainclip")


class StreamBatches(IterableDataset[Batch]):
    """Training batches of one rank; the same interface as ``IndexedBatches``.

    Args:
        sources: the shards' URLs of each source, the same on every rank.
        weights: the sources' shares of the samples.
        settings: of the reader.
        shuffle_samples: the least number of samples that are shuffled together.
    """

    def __init__(
        self, sources: Sequence[list[str]], weights: Sequence[float], settings: ReaderSettings, shuffle_samples: int
    ) -> None:
        super().__init__()
        self.sources, self.mixture, self.settings = list(sources), Mixture(weights), settings
        self.global_batch, self.shuffle_samples = settings.global_batch, shuffle_samples
        self.gaps: set[Gap] = set()  # of all ranks before this run, of this one since
        self.counts = torch.full((sum(map(len, self.sources)),), UNKNOWN).share_memory_()
        self.first = self.batches = 0

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> Iterator[Batch]:
        """The ``batches`` batches after the first ``position`` samples."""
        self.first, self.batches = position // self.global_batch, batches
        for batch in DataLoader(self, batch_size=None, num_workers=workers, **settings):
            self.gaps.update(skip.gap for skip in batch.skipped if skip.gap is not None)
            yield batch

    @property
    def samples(self) -> int | None:
        """Samples of a pass; None until every shard was opened by some reader."""
        return None if (self.counts == UNKNOWN).any() else int(self.counts.sum())

    def state(self) -> dict[str, Any]:
        """Counts and gaps of the shards that any rank knows, for a checkpoint. Collective."""
        ranks = gather((self.counts.tolist(), self.gaps))
        counts = [max(shard_counts) for shard_counts in zip(*(counts for counts, _ in ranks), strict=True)]
        gaps = sorted(set().union(*(gaps for _, gaps in ranks)))
        return {"shards": self._digest(), "counts": counts, "gaps": [list(gap) for gap in gaps]}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Load a checkpoint's ``state``, if its shards had the same names in the same order."""
        if state is None:
            return
        if state["shards"] != self._digest():
            logger.warning("the remote shards are not those of the checkpoint: they are counted again")
            return
        self.counts.copy_(torch.tensor(state["counts"]))
        self.gaps = {Gap(*gap) for gap in state["gaps"]}

    def _digest(self) -> str:
        names = [[url.rpartition("/")[2] for url in urls] for urls in self.sources]  # the folder may be another one
        return hashlib.blake2b(repr(names).encode(), digest_size=16).hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = _worker()
        reader = (self.first + worker) % workers  # the loader asks its workers in turn; the first makes batch ``first``
        batches_before = len(range(reader, self.first, workers))
        worker_batches = len(range(worker, self.batches, workers))
        notes = SkipNotes()
        items = self._items(
            Share(self.settings.rank * workers + reader, self.settings.ranks * workers),
            batches_before * self.settings.batch_size,
            notes,
        )
        for _ in range(worker_batches):
            yield collate(list(itertools.islice(items, self.settings.batch_size)), notes.take())

    def _items(self, share: Share, position: int, notes: SkipNotes) -> Iterator[PreparedSample]:
        """A reader's items from ``position`` of its sequence on, sources interleaved."""
        counts = self.counts.split([len(urls) for urls in self.sources])
        streams = [
            self._items_of(
                ShardSequence(
                    urls, counts[i], share, f"{self.settings.seed}/{i}", self.shuffle_samples, self.settings.fetch, i,
                    self._gaps(share, i),
                ), done, notes,
            )
            for i, (urls, done) in enumerate(zip(self.sources, self.mixture.counts(position), strict=True))
        ]  # fmt: skip
        for sample_position in itertools.count(position):
            yield next(streams[self.mixture.at(sample_position)[0]])

    def _gaps(self, share: Share, source: int) -> dict[tuple[int, int], int]:
        reader = (share.readers, share.index, source)
        return {(gap.epoch, gap.shard): gap.samples for gap in self.gaps if gap[:3] == reader}

    def _items_of(self, sequence: ShardSequence, done: int, notes: SkipNotes) -> Iterator[PreparedSample]:
        owed: list[tuple[int, str]] = []  # samples still to be replaced, with their random choices
        failures = 0  # unusable samples in a row
        for (epoch, slots), first in sequence.windows(done, notes):
            draws = f"{sequence.seed}/{epoch}"
            owed += [(i, draws) for i in range(first, len(slots))]
            new_samples = len(slots) - first
            while owed and slots:
                i, choices = owed[0]
                item = self._item(
                    slots, i % len(slots), choices if len(owed) <= new_samples else f"{choices}/owed {i}", notes
                )
                if item is None:
                    failures += len(slots)
                    break
                owed.pop(0)
                failures = 0
                yield item
            if failures >= _TRIES:
                raise DataError(with_last_skip(f"none of {failures} samples can be used", notes.last))

    def _item(self, slots: list[Slot], i: int, draws: str, notes: SkipNotes) -> PreparedSample | None:
        """Sample ``i`` of a window, or a substitute; None where none of them can be used."""
        for attempt in range(-1, len(slots)):
            slot = slots[i] if attempt < 0 else slots[(i + len(slots) // 2 + attempt) % len(slots)]
            item = _try(slot, self.settings.prepare, draws if attempt < 0 else f"{draws}/for {i}", notes)
            if item is not None:
                return item
        return None


class StreamPass(IterableDataset[Batch]):
    """A pass over every sample once, split over ranks and workers; their number is not known beforehand."""

    def __init__(self, urls: list[str], settings: ReaderSettings) -> None:
        super().__init__()
        self.urls, self.settings = urls, settings
        self.counts = torch.full((len(urls),), UNKNOWN).share_memory_()  # a later pass knows what a lost shard holds

    def loader(self, workers: int, **settings: Any) -> DataLoader[Batch]:
        """A loader of all batches."""
        return DataLoader(self, batch_size=None, num_workers=workers, **settings)

    def __iter__(self) -> Iterator[Batch]:
        worker, workers = _worker()
        notes = SkipNotes()
        items = self._items(Share(self.settings.rank * workers + worker, self.settings.ranks * workers), notes)
        item = next(items, None)
        while item is not None:  # one item ahead: skips at the very end still travel with the last batch
            chunk = [item]
            while (item := next(items, None)) is not None and len(chunk) < self.settings.batch_size:
                chunk.append(item)
            yield collate(chunk, notes.take())
        if skipped := notes.take():  # no batch was made at all
            yield empty_batch(self.settings.prepare, skipped)

    def _items(self, share: Share, notes: SkipNotes) -> Iterator[PreparedSample]:
        sequence = ShardSequence(self.urls, self.counts, share, None, 1, self.settings.fetch)
        for (_, slots), _ in sequence.windows(0, notes):
            for slot in slots:
                item = _try(slot, self.settings.prepare, f"{self.settings.seed}/0", notes)
                if item is not None:
                    yield item


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _try(slot: Slot, prepare: SamplePreprocessor, draws: str, notes: SkipNotes) -> PreparedSample | None:
    """The item of a sample; None, and counted, where it cannot be used."""
    shard, number = slot
    name = shard.url.rpartition("/")[2]  # moving the data must not change what is drawn
    with notes.noting(shard.url, shard.index.key(number)):
        return prepared(shard.read(number), prepare, f"{draws}/{name}/{number}", sample_id(shard.url, number))
    return None
