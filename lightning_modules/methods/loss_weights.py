"""The rules for the numbers of a loss term: its weight, and the start of its temperature."""

from __future__ import annotations

import math


def check_weight(name: str, weight: float) -> None:
    """Check the weight of a loss term. Raises ValueError where it is negative or not finite."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} must be 0 or more, got {weight}")


def check_scale(name: str, scale: float, largest: float) -> None:
    """Check the start of a learnt logit scale. Raises ValueError where it lies outside 1 and ``largest``, between which
    an optimiser's step would move it.
    """
    if not 1 <= scale <= largest:
        raise ValueError(
            f"{name} must lie between 1 and {largest:g}: it is the factor on cosines, one over a temperature; "
            f"got {scale}"
        )
