"""Preprocessing of long captions in published evaluations, before tokenisation. Each changes the numbers by a point.

A wording is a function of the released text; its name stands in the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Wording = Callable[[str], str]
_BREAKS = re.compile(r"\n|</s>|\.")


def raw(text: str) -> str:
    """The text as released."""
    return text


def first_line(text: str) -> str:
    """The text before the first line break, even an empty one (Long-CLIP's and LoTLIP's Urban1k)."""
    return text.partition("\n")[0]


def first_filled_line(text: str) -> str:
    """The first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def one_line(text: str) -> str:
    """Line breaks become spaces (Long-CLIP's ShareGPT4V)."""
    return text.replace("\n", " ")


def lotlip(text: str) -> str:
    """Cut at line breaks, ``</s>`` and every full stop, and joined by ". " (LoTLIP, FLAIR).

    The last full stop is lost, and "3.5 m" becomes "3. 5 m".
    """
    return ". ".join(part.strip() for part in _BREAKS.split(text) if part.strip())


def deduplicated(text: str) -> str:
    """One line, without repeated sentences."""
    return " ".join(dict.fromkeys(re.split(r"(?<=[.!?])\s+", one_line(text).strip())))


WORDINGS: tuple[Wording, ...] = (raw, first_line, first_filled_line, one_line, lotlip, deduplicated)
