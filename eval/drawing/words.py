"""Texts to be read: punctuation at its word, wrapped to lines, and cut where there are too many of them."""

from __future__ import annotations

import re
import textwrap

PARTED = re.compile(r"(?<=[(\[]) | (?=[.,;:!?)\]]|'(?:s|t|re|ve|m|ll|d)\b)")


def joined(text: str) -> str:
    """A text whose words and signs a tokenizer has parted: "the dog 's tail ." is "the dog's tail."."""
    return PARTED.sub("", text)


def wrapped(text: str, width: int, lines: int) -> str:
    """At most ``lines`` lines of ``width`` characters; an ellipsis stands for what is cut."""
    parts = textwrap.wrap(text, width, break_long_words=True) or [""]
    if len(parts) <= lines:
        return "\n".join(parts)
    return "\n".join([*parts[: lines - 1], parts[lines - 1][: width - 1].rstrip(" .,") + "…"])


def short(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
