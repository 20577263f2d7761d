"""One reader's sequence of remote shards: which ones, in what order, cut into windows whose samples are mixed.

In every pass the shards are permuted anew. With many shards each reader (a worker of a rank) has some for itself, with
few all read the same ones and take every n-th sample. A window is as many shards as hold a number of samples, or what
is left of the pass. To go on from a sample, only the counts of the shards before it are needed, and of those that were
not whole when they were read, how many samples the reader got: its gaps.

A shard that does not come counts as so many bad samples as it should hold; the next pass asks for it again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datamodules.batch import Gap, Skip
from datamodules.reading.bad_samples import DataError, SkipNotes, ended
from datamodules.reading.shuffle_order import hash_key, permutation
from datamodules.shards.download import Fetched, FetchPolicy, fetch, fetched_ahead

UNKNOWN = -1  # how many samples a shard holds that was not opened yet


@dataclass(frozen=True)
class Share:
    """This reader's part: reader ``index`` of ``readers`` (ranks × workers)."""

    index: int
    readers: int

    def owns_shards(self, shards: int) -> bool:
        """True if every reader has shards of its own, in about equal number; else all readers read all shards and take
        every n-th sample.
        """
        return shards >= self.readers and (shards % self.readers == 0 or shards >= 8 * self.readers)


class _Step(NamedTuple):
    """One shard in a reader's sequence."""

    epoch: int
    turn: int  # of the pass, from 0 on
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
        self.size = 0

    def mine(self, step: _Step, samples: int) -> range:
        """The reader's samples of a shard. Whoever shares a shard starts one sample further in the next: a
        shard that fails for one of them changes nothing for the others.
        """
        if self.own:
            return range(samples)
        return range((self.share.index - step.turn - step.epoch) % self.share.readers, samples, self.share.readers)

    def ends(self, step: _Step, samples: int) -> bool:
        """True if the window ends with this shard, of which the reader has so many samples."""
        self.size += samples
        ends = step.last or self.size >= self.enough
        if ends:
            self.size = 0
        return ends


class ShardSequence:
    """One reader's endless sequence over one source.

    Args:
        urls: the source's shards.
        counts: samples of each shard, ``UNKNOWN`` where no one has had the whole of it yet; written here.
        share: this reader among all.
        seed: of the order; None keeps everything in its place, for a single pass.
        shuffle_samples: samples that a window holds at least.
        policy: how long storage is waited for.
        source: number of the source, for gaps.
        gaps: samples that the reader got of a shard, by (pass, shard), where that was not whole.
    """

    def __init__(
        self, urls: list[str], counts: Tensor, share: Share, seed: int | str | None, shuffle_samples: int,
        policy: FetchPolicy = FetchPolicy(), source: int = 0, gaps: dict[tuple[int, int], int] | None = None,
    ) -> None:  # fmt: skip
        self.urls, self.counts, self.share, self.seed, self.shuffle_samples = urls, counts, share, seed, shuffle_samples
        self.policy, self.source, self.gaps = policy, source, gaps or {}
        self.own = share.owns_shards(len(urls))
        self._unsized: list[tuple[_Step, Skip]] = []  # losses whose size no shard tells yet
        self._failing: list[float] = []  # seconds that each of the last shards took and did not come

    def windows(self, done: int, notes: SkipNotes) -> Iterator[tuple[Window, int]]:
        """The windows from sample ``done`` of the sequence on, and how many samples of each are done.

        Raises ``DataError`` where storage stays away, or a pass brings no sample.
        """
        steps, cut, done = self._skip(done)
        slots: list[Slot] = []
        open_shards: list[Fetched] = []
        pass_samples, first_shard = 0, None
        for step, shard in fetched_ahead(((step, self._wanted(step)) for step in steps), self.policy):
            first_shard = step.shard if first_shard is None else first_shard
            numbers = range(0)
            if shard is not None:
                open_shards.append(shard)
                numbers = self._taken(step, shard, cut, notes)
                slots += [Slot(shard, number) for number in numbers]
            if cut.ends(step, len(numbers)):
                self._size_losses(cut, notes, bool(slots) or (step.last and self.seed is None))
                yield Window(step.epoch, self._mixed(slots, step.epoch, first_shard)), done
                pass_samples += len(slots)
                for open_shard in open_shards:
                    open_shard.file.close()
                slots, open_shards, done, first_shard = [], [], 0, None
            if step.last:
                if pass_samples == 0 and self.seed is not None:
                    raise DataError(
                        ended(
                            f"reader {self.share.index} of {self.share.readers} found no sample in {len(self.urls)} "
                            "shards", notes.last,
                        )
                    )  # fmt: skip
                pass_samples = 0

    def _wanted(self, step: _Step) -> str | None:
        """The shard's URL; None where it is known to give nothing in this pass."""
        empty = self.gaps.get((step.epoch, step.shard)) == 0 or self.counts[step.shard] == 0
        return None if empty else self.urls[step.shard]

    def _taken(self, step: _Step, shard: Fetched, cut: _Cut, notes: SkipNotes) -> range:
        """The reader's samples of a shard at hand. Those that it lacks are noted, once."""
        samples = len(shard.index)
        if (recorded := self.gaps.get((step.epoch, step.shard))) is not None:
            return cut.mine(step, min(recorded, samples))  # noted before this run went on
        if not shard.problem:
            self.counts[step.shard] = samples
            if samples == 0:
                notes.add(Skip("shard", shard.url, "", "it holds no sample"))
        else:
            gap = Gap(self.share.readers, self.share.index, self.source, step.epoch, step.shard, samples)
            self._unsized.append((step, Skip("shard", shard.url, "", shard.problem, gap=gap)))
            self._size_losses(cut, notes, False)
            notes.last = self._unsized[-1][1] if self._unsized else notes.last
        self._failing = [*self._failing, shard.seconds] if shard.problem and not samples else []
        if len(self._failing) > 1 and sum(self._failing) >= self.policy.patience:
            raise DataError(ended(f"storage stays away: {len(self._failing)} shards in a row do not come", notes.last))
        return cut.mine(step, samples)

    def _size_losses(self, cut: _Cut, notes: SkipNotes, anyway: bool) -> None:
        """Note the shards that were lost with the samples they should hold: as many as before, else as the others."""
        known = self.counts[self.counts > 0].double()
        if not (len(known) or anyway):
            return
        for step, skip in self._unsized:
            count = int(self.counts[step.shard])
            whole = count if count > 0 else round(known.mean().item()) if len(known) else 1
            there = skip.gap.found if skip.gap is not None else 0
            lost = len(cut.mine(step, whole)) - len(cut.mine(step, there))
            notes.add(skip._replace(samples=max(lost, 1)))
        self._unsized = []

    def _steps(self) -> Iterator[_Step]:
        for epoch in itertools.count() if self.seed is not None else [0]:
            order = np.arange(len(self.urls))
            if self.seed is not None:
                order = permutation(len(self.urls), hash_key(self.seed, epoch, "shards"))
            own_shards = order[self.share.index :: self.share.readers] if self.own else order
            for turn, shard in enumerate(own_shards):
                yield _Step(epoch, turn, int(shard), turn == len(own_shards) - 1)

    def _skip(self, done: int) -> tuple[Iterator[_Step], _Cut, int]:
        """The rest of the sequence after ``done`` samples: from the start of the window that they end in."""
        steps = self._steps()
        window: list[_Step] = []
        cut, size = _Cut(self.share, self.own, self.shuffle_samples), 0
        while done > 0:
            window.append(step := next(steps))
            samples = len(cut.mine(step, self._count(step)))
            size += samples
            ends = cut.ends(step, samples)
            if ends and done < size:
                break
            if ends:
                done, size, window = done - size, 0, []
        cut.size = 0
        return itertools.chain(window, steps), cut, done

    def _count(self, step: _Step) -> int:
        """The number of samples that the reader got from a shard in the past."""
        if (gap := self.gaps.get((step.epoch, step.shard))) is not None:
            return gap
        if self.counts[step.shard] == UNKNOWN:
            fetched = fetch(self.urls[step.shard], self.policy)
            fetched.file.close()
            if fetched.problem:
                return len(fetched.index)
            self.counts[step.shard] = len(fetched.index)
        return int(self.counts[step.shard])

    def _mixed(self, slots: list[Slot], epoch: int, first: int | None) -> list[Slot]:
        if self.seed is None:
            return slots
        order = permutation(len(slots), hash_key(self.seed, epoch, "window", self.share.index, first or 0))
        return [slots[i] for i in order]
