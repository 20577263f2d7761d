"""Captions as shards store them: mended, on one line.

The tokenizer mends text the same way before it encodes. Doing it before phrases are cut keeps the stored offsets true
for what the text tower reads; offsets that a data set gives are moved along.
"""

from __future__ import annotations

import html
import re

import ftfy

from datamodules.formats.tokenised_captions import full_sentence
from datamodules.granularity.cutting import Span
from datamodules.prepare.rejected import Rejected

_LOOP = re.compile(r"(.{3,20}?)\1\1+")
_LOOPS = tuple(re.compile(rf"(.{{{least},20}}?)\1\1+") for least in (10, 5, 3))
_REPEATED_WORD = re.compile(r"(?<!\S)(\S+)(?:\s+\1)+(?!\S)")
_LONG_TEXT, _MAX_LOOPS = 100, 10
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]")


def tidy(text: str) -> str:
    """``text`` with broken unicode mended, HTML escapes undone, control characters out and single spaces."""
    return " ".join(mended(text).split())


def mended(text: str) -> str:
    """``text`` with broken unicode mended, HTML escapes undone and control characters out; line breaks stay."""
    return _CONTROL.sub(" ", html.unescape(html.unescape(ftfy.fix_text(text))))


def without_repeats(text: str) -> str:
    """``text`` without the loops that captioning models fall into, as in β-CLIP's data.

    A piece of 3 to 20 characters that comes three times or more in a row comes once (in texts of over 100 characters,
    the long pieces first, 10 times at most), and so does a repeated word.
    """
    if len(text) > _LONG_TEXT and _LOOP.search(text):
        for loop in _LOOPS:
            text = loop.sub(r"\1", text, count=_MAX_LOOPS)
    return _REPEATED_WORD.sub(r"\1", text)


def as_sentence(text: str) -> str:
    """``text`` tidied and ended by a full stop where it ends without one; "" where it holds no letter or digit."""
    return full_sentence(tidy(text))


def tidy_span(text: str, tidied: str, span: Span) -> Span:
    """Position in ``tidied`` of ``text[span.start:span.end]``, without surrounding space.

    Args:
        text: as the data set has it; ``span`` are characters of it.
        tidied: ``tidy(text)`` or ``as_sentence(text)``.

    Raises:
        Rejected: the span leaves the text, holds no letter or digit, or its words are no longer there.
    """
    if not 0 <= span.start < span.end <= len(text):
        raise Rejected("phrase outside the caption")
    piece = text[span.start : span.end]
    start, words = span.end - len(piece.lstrip()), tidy(piece)
    if not re.search(r"\w", words):
        raise Rejected("phrase without words")
    if not tidied.startswith(text[: span.end]):  # something before was mended: how long is it now?
        start = len(tidy(text[:start] + "|")) - 1
    if tidied[start : start + len(words)] != words:
        raise Rejected("phrase lost in mending")
    return Span(start, start + len(words))
