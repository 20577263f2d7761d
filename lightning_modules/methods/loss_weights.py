"""The rule for the weights of loss terms, the same for every method."""

from __future__ import annotations

import math


def check_weight(name: str, weight: float) -> None:
    """Refuse a weight that no loss term can have.

    Raises:
        ValueError: where it is negative or not finite.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} must be 0 or more, got {weight}")
