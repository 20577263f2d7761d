"""One check, and one message, for the lower bounds of settings."""

from __future__ import annotations


def at_least(section: str, bound: float, **values: float) -> None:
    """Raise ``ValueError`` where one of the ``values`` of the config section ``section`` is below ``bound``."""
    for name, value in values.items():
        if not value >= bound:
            raise ValueError(f"{section}.{name} must be at least {bound}, got {value}")
