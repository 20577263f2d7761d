"""The rule for the weight of a loss term."""

from __future__ import annotations

import math


def check_weight(name: str, weight: float) -> None:
    """Check the weight of a loss term. Raises ValueError where it is negative or not finite."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} must be 0 or more, got {weight}")
