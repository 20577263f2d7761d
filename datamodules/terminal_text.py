"""Text of others on its way to a terminal: escape sequences in a caption must not retitle, clear or write to it."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Remove control characters (C0, C1, and those that turn the direction of writing) but line breaks and tabs."""
    return _CONTROLS.sub("", text)
