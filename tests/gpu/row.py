"""A row of ``make gpu``: its name, and the function that measures its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """``measure()`` gives numbers, or None where this device has none, by the same names on every device."""

    name: str
    measure: Callable[[], dict[str, Any]]
