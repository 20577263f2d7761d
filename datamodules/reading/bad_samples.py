"""Samples that cannot be used: readers note them, the main process counts, shows and judges them.

A reader (a loader worker, or the main process where there is none) sends its notes along with the next batch. So the
main process of a rank knows those of all its workers, ranks add theirs up at moments when they are in step, and all
come to the same verdict. Nothing is judged anywhere else.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from datamodules.batch import Batch, Skip
from datamodules.bounds import at_least
from datamodules.reading.ranks import gather, rank_count

TELL = 3  # samples of each reason that are logged one by one
_EVERY = 50  # batches after which ranks add up
_LONGEST = 200  # characters of an error

logger = logging.getLogger("grainclip")


class DataError(RuntimeError):
    """Too many samples cannot be used, or a shard gives none; the message names shard, key and reason."""


@dataclass(frozen=True)
class SkipPolicy:
    """Bad samples are left out and counted by reason; past ``max_rate`` of the samples read, the run stops.

    The rate is that of all workers and ranks together, from the start of an epoch, or of several short ones, on.

    Args:
        max_rate: the largest share of samples that may be left out.
        grace: the rate is judged once this many samples were read, or all of the data where there are fewer; in
            validation at the end of the pass in any case.
    """

    max_rate: float = 0.01
    grace: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.max_rate <= 1:
            raise ValueError(f"data.skip.max_rate must lie in [0, 1], got {self.max_rate}")
        at_least("data.skip", 0, grace=self.grace)


class SkipNotes:
    """A reader's notes of samples that it left out since its last batch."""

    def __init__(self) -> None:
        self.last: Skip | None = None
        self._new: list[Skip] = []

    def add(self, skip: Skip) -> None:
        """Note one."""
        self.last = skip
        self._new.append(skip)

    def take(self) -> list[Skip]:
        """Those that no batch has carried yet."""
        new, self._new = self._new, []
        return new


@dataclass
class _Seen:
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    last: Skip | None = None

    def __iadd__(self, other: _Seen) -> _Seen:
        self.read += other.read
        self.skipped += other.skipped
        self.last = other.last or self.last
        return self


class BadSampleRate:
    """The share of bad samples over all workers and ranks.

    Args:
        policy: how large it may be.
        alone: this rank reads for itself, while others do something else.
    """

    def __init__(self, policy: SkipPolicy, alone: bool = False) -> None:
        self.policy, self.alone = policy, alone
        self._mine, self._all = _Seen(), _Seen()
        self._told: Counter[str] = Counter()
        self._enough = policy.grace

    def restart(self, samples: int | None) -> None:
        """A new epoch, over data of so many samples (None: not known). Counts that do not suffice for a verdict yet are
        kept.
        """
        self._enough = self.policy.grace if samples is None else min(self.policy.grace, samples)
        if self._all.read >= self._enough:
            self._all = _Seen()

    def add(self, batch: Batch, number: int, *, last: bool) -> None:
        """Count this rank's batch, the epoch's ``number``-th from 1 on. Collective every so many batches, and at the
        epoch's ``last``.

        Raises ``DataError``, on all ranks, where too large a share of the samples was left out.
        """
        for skip in batch.skipped:
            self._told[skip.reason] += 1
            if self._told[skip.reason] <= TELL:
                logger.warning("skipped (%s): %s", skip.reason, described(skip))
            self._mine.skipped[skip.reason] += skip.samples
            self._mine.last = skip
        self._mine.read += len(batch.keys) + sum(skip.samples for skip in batch.skipped)
        alone = self.alone or rank_count() == 1
        if alone or last or number % _EVERY == 0:
            for counts in [self._mine] if alone else gather(self._mine):
                self._all += counts
            self._mine = _Seen()
            if self._all.read >= self._enough:
                self.judge()

    def judge(self) -> None:
        """The verdict on what all ranks have counted so far, however little. Raises ``DataError``."""
        counts, skipped = self._all, self._all.skipped.total()
        if skipped > self.policy.max_rate * counts.read:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in counts.skipped.most_common())
            raise DataError(
                ended(
                    f"{skipped} of {counts.read} samples cannot be used ({reasons}), more than data.skip.max_rate "
                    f"{self.policy.max_rate} allows",
                    counts.last,
                )
            )


def described(skip: Skip) -> str:
    """Shard, sample and what is wrong."""
    return f"{skip.shard}, sample {skip.key!r}: {skip.message}" if skip.key else f"{skip.shard}: {skip.message}"


def ended(reason: str, last: Skip | None) -> str:
    """An error's line: the reason, and as much of the last bad sample as fits."""
    if last is None:
        return reason
    line = f"{reason}. The last: {described(last._replace(shard=last.shard.rpartition('/')[2]))}"
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
