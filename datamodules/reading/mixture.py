"""Interleaves several weighted sources: after any number of samples each has given its share, to within one sample.

This is the chairman assignment problem, and the rule is Tijdeman's (1980): of the sources whose share is at least
1 / (2k - 2) samples ahead of what they have given, the one whose next sample is due first comes next. Then no source
of k is ever further than 1 - 1 / (2k - 2) samples from its share. Shares are whole parts of a period, after which
all have given exactly theirs and everything repeats: so a position far into a run is found without those before it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LONGEST_PERIOD = 1 << 20  # samples; shares that need a longer one are rounded to parts of it


class Mixture:
    """Interleaves k sources by weight: of any first n samples each gives its share of n, to within one sample.

    ``weights`` are above 0 and need not sum to 1. Raises ``ValueError`` otherwise, and where a weight is too small for
    a sample in 1,048,576.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or any(not (math.isfinite(w) and w > 0) for w in weights):
            raise ValueError(f"data.weights must be numbers above 0, got {list(weights)}")
        self.parts = _parts([Fraction(str(w)) for w in weights])
        if 0 in self.parts:
            raise ValueError(f"data.weights must be at least 1/{LONGEST_PERIOD} of their sum, got {list(weights)}")
        self.period = sum(self.parts)
        self._turns = array("H")  # the source of each position of the period, as far as it was needed
        self._given = array("I")  # the samples that this source has given before, in the period
        self._totals = [0] * len(self.parts)

    def counts(self, position: int) -> list[int]:
        """The number of the first ``position`` samples that come from each source."""
        periods, remainder = divmod(position, self.period)
        self._extend_turns(remainder)
        turns = np.bincount(np.frombuffer(self._turns, dtype=np.uint16)[:remainder], minlength=len(self.parts))
        return [periods * part + int(turn) for part, turn in zip(self.parts, turns, strict=True)]

    def at(self, position: int) -> tuple[int, int]:
        """(source, how many samples it has given before) of the sample at ``position``."""
        periods, remainder = divmod(position, self.period)
        self._extend_turns(remainder + 1)
        source = self._turns[remainder]
        return source, periods * self.parts[source] + self._given[remainder]

    def _extend_turns(self, end: int) -> None:
        """Find the turns of the first ``end`` samples of the period, and some more."""
        if end <= len(self._turns):
            return
        parts, totals, period = self.parts, self._totals, self.period
        slack = max(2 * len(parts) - 2, 1)
        common = math.lcm(*parts)
        step = [slack * common // part for part in parts]  # between a source's samples
        due = [((total + 1) * slack - 1) * common // part for total, part in zip(totals, parts, strict=True)]
        for number in range(len(self._turns) + 1, min(period, max(end, 2 * len(self._turns), 1024)) + 1):
            candidates = [
                (due[i], i) for i, part in enumerate(parts) if slack * (number * part - period * totals[i]) >= period
            ]
            _, source = min(candidates)
            self._turns.append(source)
            self._given.append(totals[source])
            totals[source] += 1
            due[source] += step[source]


def _parts(weights: list[Fraction]) -> list[int]:
    """Whole numbers in the proportion of ``weights``, exactly where their sum is at most ``LONGEST_PERIOD``."""
    scale = math.lcm(*(w.denominator for w in weights))
    parts = [int(w * scale) for w in weights]
    common = math.gcd(*parts)
    parts = [part // common for part in parts]
    if sum(parts) <= LONGEST_PERIOD:
        return parts
    exact = [Fraction(LONGEST_PERIOD * part, sum(parts)) for part in parts]
    rounded = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: rounded[i] - exact[i])
    for i in by_remainder[: LONGEST_PERIOD - sum(rounded)]:
        rounded[i] += 1
    return rounded
