"""Samples that cannot be used: readers note them, the main process counts and logs them, and stops the run.

A reader (a loader worker, or the main process where there is none) sends its notes along with the next batch. So the
main process of a rank knows those of all its workers; ranks add up their counts every few batches, and all stop at the
same batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from datamodules.batch import Batch, Skip
from datamodules.batching.stored_tokens import ForeignTokens
from datamodules.bounds import at_least
from datamodules.reading.ranks import gather, rank_count
from datamodules.sample import SampleError

LOGGED_PER_REASON = 3  # bad samples of each reason that are logged one by one
_BATCHES_BETWEEN_SUMS = 50  # batches after which ranks add up their counts
_MAX_MESSAGE = 200  # characters

logger = logging.getLogger("grainclip")


class DataError(RuntimeError):
    """Too many samples cannot be used, or a shard gives none; the message names shard, key and reason."""


@dataclass(frozen=True)
class SkipPolicy:
    """Bad samples are left out and counted by reason; past ``max_rate`` of the samples read, the run stops.

    The rate is that of all workers and ranks together, since the start of the epoch, or of several short epochs.

    Args:
        max_rate: the largest share of samples that may be left out.
        grace: the number of samples that must be read before the rate is checked, or all where there are fewer;
            validation checks it at the end of the pass in any case.
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
        """Add a bad sample."""
        self.last = skip
        self._new.append(skip)

    @contextmanager
    def noting(self, shard: str, key: str) -> Iterator[None]:
        """Add the sample if the block raises ``SampleError``; other errors become ``DataError``, which ends the run."""
        try:
            yield
        except SampleError as error:
            self.add(Skip(error.reason, shard, key, str(error)))
        except ForeignTokens as error:
            raise DataError(f"{shard}: {error}") from error
        except Exception as error:
            raise DataError(f"{shard}, sample {key!r}: {error!r}") from error

    def take(self) -> list[Skip]:
        """The notes that no batch has carried yet."""
        new, self._new = self._new, []
        return new


@dataclass
class _SampleCounts:
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    last: Skip | None = None

    def __iadd__(self, other: _SampleCounts) -> _SampleCounts:
        self.read += other.read
        self.skipped += other.skipped
        self.last = other.last or self.last
        return self


class BadSampleRate:
    """The share of bad samples over all workers and ranks.

    Args:
        policy: how large it may be.
        alone: only this rank reads, so counts are not added up over ranks.
    """

    def __init__(self, policy: SkipPolicy, alone: bool = False) -> None:
        self.policy, self.alone = policy, alone
        self._mine, self._all = _SampleCounts(), _SampleCounts()
        self._logged: Counter[str] = Counter()
        self._min_samples = policy.grace

    def restart(self, samples: int | None) -> None:
        """Begin an epoch over data of ``samples`` samples (None: not known). Counts too small for a check are kept."""
        self._min_samples = self.policy.grace if samples is None else min(self.policy.grace, samples)
        if self._all.read >= self._min_samples:
            self._all = _SampleCounts()

    def add(self, batch: Batch, number: int, *, last: bool) -> None:
        """Count this rank's batch, the epoch's ``number``-th from 1 on, and check the rate.

        Collective every 50 batches and at the epoch's ``last``. Raises ``DataError`` on all ranks, as ``check``.
        """
        for skip in batch.skipped:
            self._logged[skip.reason] += 1
            if self._logged[skip.reason] <= LOGGED_PER_REASON:
                logger.warning("skipped (%s): %s", skip.reason, describe_skip(skip))
            self._mine.skipped[skip.reason] += skip.samples
            self._mine.last = skip
        self._mine.read += len(batch.keys) + sum(skip.samples for skip in batch.skipped)
        alone = self.alone or rank_count() == 1
        if alone or last or number % _BATCHES_BETWEEN_SUMS == 0:
            for counts in [self._mine] if alone else gather(self._mine):
                self._all += counts
            self._mine = _SampleCounts()
            if self._all.read >= self._min_samples:
                self.check()

    def check(self) -> None:
        """Raise ``DataError`` where the rate over all ranks exceeds ``policy.max_rate``."""
        counts, skipped = self._all, self._all.skipped.total()
        if skipped > self.policy.max_rate * counts.read:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in counts.skipped.most_common())
            raise DataError(
                with_last_skip(
                    f"{skipped} of {counts.read} samples cannot be used ({reasons}), more than data.skip.max_rate "
                    f"{self.policy.max_rate} allows",
                    counts.last,
                )
            )


def describe_skip(skip: Skip) -> str:
    """The shard, the sample and the problem, in words."""
    return f"{skip.shard}, sample {skip.key!r}: {skip.message}" if skip.key else f"{skip.shard}: {skip.message}"


def with_last_skip(reason: str, last: Skip | None) -> str:
    """An error message of at most 200 characters: the reason, and the last bad sample."""
    if last is None:
        return reason
    line = f"{reason}. The last: {describe_skip(last._replace(shard=last.shard.rpartition('/')[2]))}"
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"
