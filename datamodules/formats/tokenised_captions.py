"""Captions stored as a tokeniser's words ("a man 's hat ."), written as people write them ("a man's hat.")."""

from __future__ import annotations

import re

_BEFORE_MARK = re.compile(r" (?=(?:[.,;:!?)%]+|['’](?:s|re|ve|ll|d|m)|n['’]t)(?!\S))|(?<=s) (?=['’](?!\S))", re.I)
_AFTER_BRACKET = re.compile(r"(?<!\S)\( ")
_QUOTE = re.compile(r'(?<!\S)"(?!\S)')
_LOOSE_END = " ,;:-–—"
_LOOSE_STOP = re.compile(r"[ ,;:–—-]+\.$")
_END_MARK = re.compile(r"[.!?…][\"'”’)\]]*$")


def tokeniser_spaces(text: str) -> list[int]:
    """The indices of the spaces that the tokeniser inserted: before ``. , 's n't``, inside brackets and quotes."""
    spaces = {match.start() for match in _BEFORE_MARK.finditer(text)}
    spaces |= {match.end() - 1 for match in _AFTER_BRACKET.finditer(text)}
    quotes = [match.start() for match in _QUOTE.finditer(text)]
    if len(quotes) % 2 == 0:  # else which one opens is not known
        spaces |= {index + 1 for index in quotes[::2]} | {index - 1 for index in quotes[1::2]}
    return sorted(spaces)


def full_sentence(text: str) -> str:
    """``text`` without a comma or dash at its end, and ended by a full stop where it ends without a mark.

    A mark within closing quotes or brackets ends it too. A text without letter or digit becomes "".
    """
    sentence = text.rstrip(_LOOSE_END)
    if not re.search(r"\w", sentence):
        return ""
    return sentence if _END_MARK.search(sentence) else sentence + "."


def plain_sentence(caption: str) -> str:
    """A tokenised caption as one sentence: single spaces, the tokeniser's taken out, a full stop at its end."""
    text = " ".join(caption.split())
    spaces = set(tokeniser_spaces(text))
    text = "".join(letter for index, letter in enumerate(text) if index not in spaces)
    return full_sentence(_LOOSE_STOP.sub(".", text))
