"""One reader's sequence of remote shards: their order, cut into windows whose samples are shuffled.

In every pass the shards are permuted anew. With many shards each reader (a worker of a rank) has shards of its own;
with few, all readers read all shards and take every n-th sample. A window is as many shards as hold a number of
samples, or the rest of the pass. To resume at a sample, only the counts of the shards before it are needed, and for
those that were not whole when they were read, the number of samples that the reader got: its gaps.

A shard that cannot be fetched counts as so many bad samples as it should hold; the next pass tries it again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datamodules.batch import Gap, Skip
from datamodules.reading.bad_samples import DataError, SkipNotes, with_last_skip
from datamodules.reading.shuffle_order import hash_key, permutation
from datamodules.shards.download import FetchedShard, FetchPolicy, fetch, fetch_ahead

UNKNOWN = -1  # the count of a shard that was not opened yet


@dataclass(frozen=True)
class Share:
    """This reader's part: reader ``index`` of ``readers`` (ranks × workers)."""

    index: int
    readers: int

    def owns_shards(self, shards: int) -> bool:
        """True if every reader has shards of its own, about equally many; else all readers share all shards."""
        return shards >= self.readers and (shards % self.readers == 0 or shards >= 8 * self.readers)


class _ShardStep(NamedTuple):
    """One shard in a reader's sequence."""

    epoch: int
    turn: int  # of the pass, from 0 on
    shard: int
    last: bool  # of its pass


class Slot(NamedTuple):
    """A sample of a fetched shard."""

    shard: FetchedShard
    number: int


class Window(NamedTuple):
    """Shuffled samples, in the order in which they are read."""

    epoch: int
    slots: list[Slot]


class _WindowCutter:
    """Cuts a reader's sequence of shards into windows: each ends with its pass, or once it holds enough samples."""

    def __init__(self, share: Share, owns_shards: bool, min_samples: int) -> None:
        self.share, self.owns_shards, self.min_samples = share, owns_shards, min_samples
        self.size = 0

    def reader_samples(self, step: _ShardStep, samples: int) -> range:
        """The reader's samples of a shard that has ``samples`` samples.

        Readers that share shards start one sample further in each; a shard that fails for one of them changes nothing
        for the others.
        """
        if self.owns_shards:
            return range(samples)
        return range((self.share.index - step.turn - step.epoch) % self.share.readers, samples, self.share.readers)

    def ends(self, step: _ShardStep, samples: int) -> bool:
        """True if the window ends with this shard, of which the reader takes ``samples`` samples."""
        self.size += samples
        ends = step.last or self.size >= self.min_samples
        if ends:
            self.size = 0
        return ends


class ShardSequence:
    """One reader's endless sequence over one source.

    Args:
        urls: the source's shards.
        counts: samples of each shard, ``UNKNOWN`` where no reader has had the whole of it yet; updated here.
        share: this reader among all.
        seed: of the order; None: a single pass in the shards' own order.
        shuffle_samples: samples that a window holds at least.
        policy: time limits and retries for storage.
        source: number of the source, for gaps.
        gaps: samples that the reader got of a shard, by (pass, shard), where that was not whole.
    """

    def __init__(
        self, urls: list[str], counts: Tensor, share: Share, seed: int | str | None, shuffle_samples: int,
        policy: FetchPolicy = FetchPolicy(), source: int = 0, gaps: dict[tuple[int, int], int] | None = None,
    ) -> None:  # fmt: skip
        self.urls, self.counts, self.share, self.seed, self.shuffle_samples = urls, counts, share, seed, shuffle_samples
        self.policy, self.source, self.gaps = policy, source, gaps or {}
        self.owns_shards = share.owns_shards(len(urls))
        self._unsized_losses: list[tuple[_ShardStep, Skip]] = []  # lost shards whose size is not known yet
        self._failure_seconds: list[float] = []  # seconds spent on each of the last shards, none of which came

    def windows(self, done: int, notes: SkipNotes) -> Iterator[tuple[Window, int]]:
        """The windows from sample ``done`` of the sequence on, and the number of samples of each that are done.

        Raises ``DataError`` where storage stays away, or a pass brings no sample.
        """
        steps, cut, done = self._steps_after(done)
        slots: list[Slot] = []
        open_shards: list[FetchedShard] = []
        pass_samples, first_shard = 0, None
        for step, shard in fetch_ahead(((step, self._url_to_fetch(step)) for step in steps), self.policy):
            first_shard = step.shard if first_shard is None else first_shard
            numbers = range(0)
            if shard is not None:
                open_shards.append(shard)
                numbers = self._take_samples(step, shard, cut, notes)
                slots += [Slot(shard, number) for number in numbers]
            if cut.ends(step, len(numbers)):
                self._size_losses(cut, notes, bool(slots) or (step.last and self.seed is None))
                yield Window(step.epoch, self._shuffled(slots, step.epoch, first_shard)), done
                pass_samples += len(slots)
                for open_shard in open_shards:
                    open_shard.file.close()
                slots, open_shards, done, first_shard = [], [], 0, None
            if step.last:
                if pass_samples == 0 and self.seed is not None:
                    number, readers = self.share.index, self.share.readers
                    problem = f"reader {number} of {readers} found no sample in {len(self.urls)} shards"
                    rule = "" if notes.last else ": each worker of each rank needs at least one"
                    raise DataError(with_last_skip(problem + rule, notes.last))
                pass_samples = 0

    def _url_to_fetch(self, step: _ShardStep) -> str | None:
        """The shard's URL; None where it is known to give no sample in this pass."""
        empty = self.gaps.get((step.epoch, step.shard)) == 0 or self.counts[step.shard] == 0
        return None if empty else self.urls[step.shard]

    def _take_samples(self, step: _ShardStep, shard: FetchedShard, cut: _WindowCutter, notes: SkipNotes) -> range:
        """The reader's samples of a fetched shard. Those that are lost are noted, once."""
        samples = len(shard.index)
        if (recorded := self.gaps.get((step.epoch, step.shard))) is not None:
            return cut.reader_samples(step, min(recorded, samples))  # noted before the run was resumed
        if not shard.problem:
            self.counts[step.shard] = samples
            if samples == 0:
                notes.add(Skip("shard", shard.url, "", "it holds no sample"))
        else:
            gap = Gap(self.share.readers, self.share.index, self.source, step.epoch, step.shard, samples)
            self._unsized_losses.append((step, Skip("shard", shard.url, "", shard.problem, gap=gap)))
            self._size_losses(cut, notes, False)
            notes.last = self._unsized_losses[-1][1] if self._unsized_losses else notes.last
        self._failure_seconds = [*self._failure_seconds, shard.seconds] if shard.problem and not samples else []
        if len(self._failure_seconds) > 1 and sum(self._failure_seconds) >= self.policy.patience:
            raise DataError(
                with_last_skip(
                    f"storage stays away: {len(self._failure_seconds)} shards in a row do not come", notes.last
                )
            )
        return cut.reader_samples(step, samples)

    def _size_losses(self, cut: _WindowCutter, notes: SkipNotes, force: bool) -> None:
        """Note the lost shards with their expected samples: their earlier count, else the mean of the other shards."""
        counts = self.counts[self.counts > 0].double()
        if not (len(counts) or force):
            return
        for step, skip in self._unsized_losses:
            count = int(self.counts[step.shard])
            shard_samples = count if count > 0 else round(counts.mean().item()) if len(counts) else 1
            fetched_samples = skip.gap.samples if skip.gap is not None else 0
            lost_samples = len(cut.reader_samples(step, shard_samples)) - len(cut.reader_samples(step, fetched_samples))
            notes.add(skip._replace(samples=max(lost_samples, 1)))
        self._unsized_losses = []

    def _steps(self) -> Iterator[_ShardStep]:
        for epoch in itertools.count() if self.seed is not None else [0]:
            order = np.arange(len(self.urls))
            if self.seed is not None:
                order = permutation(len(self.urls), hash_key(self.seed, epoch, "shards"))
            own_shards = order[self.share.index :: self.share.readers] if self.owns_shards else order
            for turn, shard in enumerate(own_shards):
                yield _ShardStep(epoch, turn, int(shard), turn == len(own_shards) - 1)

    def _steps_after(self, done: int) -> tuple[Iterator[_ShardStep], _WindowCutter, int]:
        """The shards from the window on in which sample ``done`` lies, and the samples of that window that are done."""
        steps = self._steps()
        window: list[_ShardStep] = []
        cut, size = _WindowCutter(self.share, self.owns_shards, self.shuffle_samples), 0
        while done > 0:
            window.append(step := next(steps))
            samples = len(cut.reader_samples(step, self._count(step)))
            size += samples
            ends = cut.ends(step, samples)
            if ends and done < size:
                break
            if ends:
                done, size, window = done - size, 0, []
        cut.size = 0
        return itertools.chain(window, steps), cut, done

    def _count(self, step: _ShardStep) -> int:
        """The number of samples that the reader got from a shard before the run was resumed."""
        if (gap := self.gaps.get((step.epoch, step.shard))) is not None:
            return gap
        if self.counts[step.shard] == UNKNOWN:
            fetched = fetch(self.urls[step.shard], self.policy)
            fetched.file.close()
            if fetched.problem:
                return len(fetched.index)
            self.counts[step.shard] = len(fetched.index)
        return int(self.counts[step.shard])

    def _shuffled(self, slots: list[Slot], epoch: int, first: int | None) -> list[Slot]:
        if self.seed is None:
            return slots
        order = permutation(len(slots), hash_key(self.seed, epoch, "window", self.share.index, first or 0))
        return [slots[i] for i in order]
