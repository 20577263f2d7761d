"""Bounds of settings, told in one way."""

from __future__ import annotations


def at_least(place: str, bound: float, **values: float) -> None:
    """Raise ``ValueError`` where one of the ``values`` of the config section ``place`` is below ``bound``."""
    for name, value in values.items():
        if not value >= bound:
            raise ValueError(f"{place}.{name} must be at least {bound}, got {value}")
