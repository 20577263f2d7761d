"""What is done about samples that cannot be used: counted by reason, shown, and too many of them stop the run."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

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
