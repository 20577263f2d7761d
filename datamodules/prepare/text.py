"""Captions as shards store them: mended, on one line.

The tokenizer mends text the same way before it encodes. Doing it before phrases are cut keeps the stored offsets true
for what the text tower reads; offsets that a data set gives are moved along.
"""

from __future__ import annotations

import html
import re

import ftfy

from datamodules.granularity import Span
from datamodules.prepare.rejects import LeftOut

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


def tidy_span(text: str, tidied: str, span: Span) -> Span:
    """Where the piece ``text[span.start:span.end]``, surrounding space aside, stands in ``tidied``.

    Args:
        text: as the data set has it; ``span`` are characters of it.
        tidied: ``tidy(text)`` or ``as_sentence(text)``.

    Raises:
        LeftOut: the span leaves the text, holds no letter or digit, or its words are no longer there.
    """
    if not 0 <= span.start < span.end <= len(text):
        raise LeftOut("phrase outside the caption")
    piece = text[span.start : span.end]
    start, words = span.end - len(piece.lstrip()), tidy(piece)
    if not re.search(r"\w", words):
        raise LeftOut("phrase without words")
    if not tidied.startswith(text[: span.end]):  # something before was mended: how long is it now?
        start = len(tidy(text[:start] + "|")) - 1
    if tidied[start : start + len(words)] != words:
        raise LeftOut("phrase lost in mending")
    return Span(start, start + len(words))
