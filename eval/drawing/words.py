"""Texts for display: punctuation joined to its word, lines wrapped, and long texts cut."""

from __future__ import annotations

import re
import textwrap

SEPARATED = re.compile(r"(?<=[(\[]) | (?=[.,;:!?)\]]|'(?:s|t|re|ve|m|ll|d)\b)")


def joined(text: str) -> str:
    """Join the words and signs that a tokenizer separated: "the dog 's tail ." becomes "the dog's tail."."""
    return SEPARATED.sub("", text)


def wrapped(text: str, width: int, lines: int) -> str:
    """At most ``lines`` lines of ``width`` characters; an ellipsis stands for what is cut."""
    parts = textwrap.wrap(text, width, break_long_words=True) or [""]
    if len(parts) <= lines:
        return "\n".join(parts)
    return "\n".join([*parts[: lines - 1], parts[lines - 1][: width - 1].rstrip(" .,") + "…"])


def short(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
