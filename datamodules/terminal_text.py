"""Text from data sets made safe for a terminal, which escape sequences in a caption could clear or retitle."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Remove control characters (C0, C1, and those of writing direction), but keep line breaks and tabs."""
    return _CONTROLS.sub("", text)
