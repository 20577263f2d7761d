"""Captions as shards store them: mended, on one line.

The tokenizer mends text the same way before it encodes. Doing it before phrases are cut keeps the stored offsets true
for what the text tower reads.
"""

from __future__ import annotations

import html
import re

import ftfy

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]")


def tidy(text: str) -> str:
    """``text`` with broken unicode mended, HTML escapes undone, control characters out and single spaces."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(_CONTROL.sub(" ", mended).split())


def as_sentence(text: str) -> str:
    """``text`` tidied and ended by a full stop where it ends without one; "" where it holds no letter or digit."""
    sentence = tidy(text).rstrip(" ,;:-–—")
    if not re.search(r"\w", sentence):
        return ""
    return sentence if sentence[-1] in ".!?…" else sentence + "."
