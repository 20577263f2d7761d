"""One reader's sequence of remote shards: which ones, in what order, cut into windows whose samples are mixed.

In every pass the shards are permuted anew. With many shards each reader (a worker of a rank) has some for itself, with
few all read the same ones and take every n-th sample. A window is as many shards as hold a number of samples, or what
is left of the pass. To go on from a sample, only the counts of the shards before it are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datamodules.batch import Skip
from datamodules.fetch import Fetched, fetch, fetched_ahead
from datamodules.order import hash_key, permutation
from datamodules.skips import DataError, SkipNotes, ended

UNKNOWN = -1  # how many samples a shard holds that was not opened yet


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


class _Step(NamedTuple):
    """One shard in a reader's sequence."""

    epoch: int
    shard: int
    last: bool  # of its pass


class Slot(NamedTuple):
    """A sample of a shard at hand."""

    shard: Fetched
    number: int


class Window(NamedTuple):
    """Samples that were mixed, in the order in which they are read."""

    epoch: int
    slots: list[Slot]


class _Cut:
    """Cuts a reader's sequence of shards into windows: each ends with its pass, or once it holds enough samples."""

    def __init__(self, share: Share, own: bool, enough: int) -> None:
        self.share, self.own, self.enough = share, own, enough
        self.epoch, self.seen, self.size = -1, 0, 0

    def add(self, step: _Step, samples: int) -> tuple[range, bool]:
        """Which of the shard's samples are this reader's, and whether the window ends here."""
        if step.epoch != self.epoch:
            self.epoch, self.seen = step.epoch, 0
        first = 0 if self.own else (self.share.index - self.seen) % self.share.readers
        mine = range(first, samples, 1 if self.own else self.share.readers)
        self.seen += samples
        self.size += len(mine)
        ends = step.last or self.size >= self.enough
        if ends:
            self.size = 0
        return mine, ends


class ShardSequence:
    """One reader's endless sequence over one source.

    Args:
        urls: the source's shards.
        counts: samples of each shard, ``UNKNOWN`` where not opened yet, 0 where it cannot be; written here.
        share: this reader among all.
        seed: of the order; None keeps everything in its place, for a single pass.
        shuffle: samples that a window holds at least.
    """

    def __init__(self, urls: list[str], counts: Tensor, share: Share, seed: int | str | None, shuffle: int) -> None:
        self.urls, self.counts, self.share, self.seed, self.shuffle = urls, counts, share, seed, shuffle
        self.own = share.owns_shards(len(urls))

    def windows(self, done: int, notes: SkipNotes) -> Iterator[tuple[Window, int]]:
        """The windows from sample ``done`` of the sequence on, and how many samples of each are done."""
        steps, cut, done = self._skip(done)
        slots: list[Slot] = []
        opened: list[Fetched] = []
        found, first = 0, None
        ahead = ((step, None if self.counts[step.shard] == 0 else self.urls[step.shard]) for step in steps)
        for step, shard in fetched_ahead(ahead):
            first = step.shard if first is None else first
            if shard is not None and shard.problem:
                notes.add(Skip("shard", shard.url, "", shard.problem))
            mine, ends = cut.add(step, 0 if shard is None else self._note(step.shard, shard))
            if shard is not None:
                opened.append(shard)
                slots += [Slot(shard, number) for number in mine]
            if ends:
                yield Window(step.epoch, self._mixed(slots, step.epoch, first)), done
                found += len(slots)
                for used in opened:
                    used.file.close()
                slots, opened, done, first = [], [], 0, None
            if step.last:
                if found == 0 and self.seed is not None:
                    raise DataError(
                        ended(
                            f"reader {self.share.index} of {self.share.readers} found no sample in {len(self.urls)} "
                            "shards",
                            notes.last,
                        )
                    )
                found = 0

    def _steps(self) -> Iterator[_Step]:
        for epoch in itertools.count() if self.seed is not None else [0]:
            order = np.arange(len(self.urls))
            if self.seed is not None:
                order = permutation(len(self.urls), hash_key(self.seed, epoch, "shards"))
            mine = order[self.share.index :: self.share.readers] if self.own else order
            for shard in mine:
                yield _Step(epoch, int(shard), shard == mine[-1])

    def _skip(self, done: int) -> tuple[Iterator[_Step], _Cut, int]:
        """What is left of the sequence when ``done`` samples are: from the start of the window that they end in."""
        steps = self._steps()
        window: list[_Step] = []
        cut, size = _Cut(self.share, self.own, self.shuffle), 0
        start = (cut.epoch, cut.seen)
        while done > 0:
            window.append(step := next(steps))
            mine, ends = cut.add(step, self._count(step.shard))
            size += len(mine)
            if ends and done < size:
                break
            if ends:
                done, size, window, start = done - size, 0, [], (cut.epoch, cut.seen)
        cut.epoch, cut.seen = start
        return itertools.chain(window, steps), cut, done

    def _count(self, shard: int) -> int:
        if self.counts[shard] == UNKNOWN:
            fetched = fetch(self.urls[shard])
            fetched.file.close()
            self._note(shard, fetched)
        return int(self.counts[shard])

    def _note(self, shard: int, fetched: Fetched) -> int:
        self.counts[shard] = len(fetched.index)
        return len(fetched.index)

    def _mixed(self, slots: list[Slot], epoch: int, first: int | None) -> list[Slot]:
        if self.seed is None:
            return slots
        order = permutation(len(slots), hash_key(self.seed, epoch, "window", self.share.index, first or 0))
        return [slots[i] for i in order]
