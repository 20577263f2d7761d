"""Batches from shards, read by webdataset: the order, the split over ranks and workers, and what is done about bad
samples.

The order follows from (seed, epoch) alone: shards are permuted, then samples within a buffer. With many shards
each reader (a worker of a rank) has shards of its own; with few, all read the same ones and take every n-th sample, so
a handful of shards feeds any number of readers. In training each reader goes on over its share until it has
made its number of batches, so that all ranks always make the same number; in evaluation every sample is read once.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import shuffle as shuffled
from webdataset.tariterators import tarfile_to_samples

from datamodules.batch import Batch
from datamodules.collate import Item, Preparer, collate
from datamodules.sample import Sample, SampleError

logger = logging.getLogger("grainclip")


class DataError(RuntimeError):
    """Too many samples cannot be used, or a shard gives none; the message names shard, key and reason."""


@dataclass(frozen=True)
class SkipPolicy:
    """Bad samples are left out and counted by reason; past ``max_rate`` of the samples read, the run stops.

    Args:
        max_rate: the largest share of samples that may be left out.
        grace: the rate is judged once this many samples were read (and at the end of a pass over the data).
    """

    max_rate: float = 0.01
    grace: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.max_rate <= 1:
            raise ValueError(f"max_rate must lie in [0, 1], got {self.max_rate}")


@dataclass
class Tally:
    """What one reader has met so far."""

    policy: SkipPolicy
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    last: str = ""
    unreported: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, shard: str, key: str, message: str) -> None:
        """Count one sample that cannot be used; the first few of each reason are logged one by one."""
        self.last = f"{shard}, sample {key!r}: {message}"
        self.skipped[reason] += 1
        self.unreported[reason] += 1
        if self.skipped[reason] <= 3:
            logger.warning("skipped (%s): %s", reason, self.last)
        if self.read >= self.policy.grace:
            self.judge()

    def judge(self) -> None:
        """Raises ``DataError`` when too large a share of the samples was left out."""
        bad = self.skipped.total()
        if bad > self.policy.max_rate * max(self.read, 1):
            reasons = ", ".join(f"{reason}: {n}" for reason, n in self.skipped.most_common())
            raise DataError(
                f"{bad} of {self.read} samples cannot be used ({reasons}), more than data.skip.max_rate "
                f"{self.policy.max_rate} allows. The last one: {self.last}"
            )

    def report(self) -> Counter[str]:
        """Skips since the last report."""
        new, self.unreported = self.unreported, Counter()
        return new


@dataclass(frozen=True)
class Share:
    """This reader's part: reader ``index`` of ``readers`` (ranks × workers)."""

    index: int
    readers: int

    def owns_shards(self, shards: int) -> bool:
        """Whether every reader has shards of its own, in about equal number; if not, all read all shards and take every
        n-th sample.
        """
        return shards >= self.readers and (shards % self.readers == 0 or shards >= 8 * self.readers)

    def size(self, samples: list[int]) -> int:
        """How many samples of shards with these counts belong to this reader."""
        if self.owns_shards(len(samples)):
            return sum(samples[self.index :: self.readers])
        return len(range(self.index, sum(samples), self.readers))


class BatchStream(IterableDataset):
    """Batches of one rank; ``epoch`` and ``start`` are set before each pass (see ``GranularityData``).

    Args:
        urls: all shards, the same list on every rank.
        prepare: from a stored sample to an item of the batch.
        batch_size: images per batch and rank.
        batches: batches per rank and epoch; None reads every sample once, in order, the last batch being smaller.
        shuffle: samples in the shuffle buffer.
        rank, ranks: this process among all.
    """

    def __init__(
        self,
        urls: list[str],
        prepare: Preparer,
        batch_size: int,
        *,
        batches: int | None,
        shuffle: int,
        seed: int,
        rank: int,
        ranks: int,
        skip: SkipPolicy,
    ) -> None:
        super().__init__()
        self.urls, self.prepare, self.batch_size = urls, prepare, batch_size
        self.batches, self.shuffle, self.seed = batches, shuffle, seed
        self.rank, self.ranks, self.skip = rank, ranks, skip
        self.epoch = 0
        self.start = 0  # batches of this epoch already trained on before the run was resumed

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (number + self.start) % workers  # the loader asks its workers in turn; the first makes batch ``start``
        share = Share(self.rank * workers + worker, self.ranks * workers)
        tally = Tally(self.skip)
        if self.batches is None:
            yield from _batched(self._items(self._pass(share, 0, tally), tally), self.batch_size, tally)
            return
        passes = (self._pass(share, n, tally) for n in itertools.count())
        items = self._items(itertools.chain.from_iterable(passes), tally)
        mine = range(worker, self.batches, workers)
        done = len(range(worker, self.start, workers))
        yield from itertools.islice(_batched(items, self.batch_size, tally), done, len(mine))

    def _pass(self, share: Share, number: int, tally: Tally) -> Iterator[dict[str, Any]]:
        """One pass over this reader's samples, still encoded."""
        urls = list(self.urls)
        by_shard = share.owns_shards(len(urls))
        rng = random.Random(f"{self.seed}/{self.epoch}/{number}/{share.index if by_shard else 'all'}")
        if self.batches is not None:
            random.Random(f"{self.seed}/{self.epoch}/{number}").shuffle(urls)
        if by_shard:
            urls = urls[share.index :: share.readers]
        samples = _read(urls, tally)
        if not by_shard:
            samples = itertools.islice(samples, share.index, None, share.readers)
        if self.batches is not None and self.shuffle > 1:
            samples = shuffled(self.shuffle, initial=self.shuffle, rng=rng)(samples)
        before = tally.read
        for sample in samples:
            tally.read += 1
            yield sample
        if self.batches is not None and tally.read == before:
            raise DataError(
                f"reader {share.index} of {share.readers} found no sample in {len(self.urls)} shards; {tally.last}"
            )
        tally.judge()

    def _items(self, samples: Iterator[dict[str, Any]], tally: Tally) -> Iterator[Item]:
        for members in samples:
            shard, key = members.get("__url__", "?"), members.get("__key__", "?")
            try:
                sample = Sample.from_members(members)
                name = shard.rpartition("/")[2]  # moving the data must not change what is drawn
                yield self.prepare(sample, random.Random(f"{self.seed}/{self.epoch}/{name}/{key}"))
            except SampleError as error:
                tally.skip(error.reason, shard, key, str(error))


def _read(urls: list[str], tally: Tally) -> Iterator[dict[str, Any]]:
    opened: list[str] = []
    broken: set[str] = set()

    def sources() -> Iterator[dict[str, str]]:
        for url in urls:
            opened.append(url)
            yield {"url": url}

    def on_error(error: Exception) -> bool:
        shard = opened[-1]
        if shard not in broken:  # the reader of the stream and the one of the tar both complain
            broken.add(shard)
            tally.skip("shard", shard, "?", f"the tar cannot be read on: {error.args[0] if error.args else error!r}")
        return True

    return tarfile_to_samples(handler=on_error)(sources())


def _batched(items: Iterator[Item], size: int, tally: Tally) -> Iterator[Batch]:
    """Batches of ``size``, reading one item ahead: skips at the very end still travel with the last batch."""
    item = next(items, None)
    while item is not None:
        chunk = [item]
        while (item := next(items, None)) is not None and len(chunk) < size:
            chunk.append(item)
        yield collate(chunk, tally.report())
