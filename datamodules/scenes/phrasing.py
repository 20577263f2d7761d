"""Texts with marks for the phrases in them.

Filling texts into a template shifts their marks, so the character offsets of every phrase of a caption are right by
construction, nested ones ("to the left of [the blue star]") included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

from datamodules.sample import Phrase


class Mark(NamedTuple):
    """A phrase inside a text: its characters, its head's base form, and the number of the thing that it names."""

    start: int
    end: int
    lemma: str
    thing: int | None


class Text(NamedTuple):
    """A text and the phrases in it, outer before inner."""

    text: str
    marks: tuple[Mark, ...] = ()


class Caption(NamedTuple):
    """A whole text. ``things[p]`` is the number of the thing that ``phrases[p]`` names, or ``None``."""

    text: str
    sentences: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    things: tuple[int | None, ...]


Piece: TypeAlias = str | Text


def joined(pieces: Sequence[Piece]) -> Text:
    """The pieces end to end."""
    words: list[str] = []
    marks: list[Mark] = []
    offset = 0
    for piece in pieces:
        if isinstance(piece, str):
            text = piece
        else:
            text, inner = piece
            marks.extend([Mark(start + offset, end + offset, lemma, thing) for start, end, lemma, thing in inner])
        words.append(text)
        offset += len(text)
    return Text("".join(words), tuple(marks))


def mention(lemma: str, thing: int | None, *pieces: Piece) -> Text:
    """The pieces as a phrase whose head's base form is ``lemma`` and which names thing number ``thing``, if any."""
    text, marks = (pieces[0], ()) if len(pieces) == 1 and isinstance(pieces[0], str) else joined(pieces)
    return Text(text, (Mark(0, len(text), lemma, thing), *marks))


def fill(template: str, **slots: Piece) -> Text:
    """A template such as ``"there is {a} {place}."`` with its slots filled in."""
    return joined([slots[piece] if is_slot else piece for is_slot, piece in _split(template)])


def listed(items: Sequence[Piece]) -> Text:
    """``a, b and c``."""
    pieces: list[Piece] = []
    for k, item in enumerate(items):
        if k:
            pieces.append(" and " if k == len(items) - 1 else ", ")
        pieces.append(item)
    return joined(pieces)


def lay_out(sentences: Sequence[Text]) -> Caption:
    """The caption of the sentences: each gets a capital, a space stands between them, phrases keep their offsets."""
    texts: list[str] = []
    phrases: list[Phrase] = []
    things: list[int | None] = []
    offset = 0
    for number, (text, marks) in enumerate(sentences):
        text = text[0].upper() + text[1:]
        for start, end, lemma, thing in marks:
            phrases.append(Phrase(text[start:end], number, offset + start, offset + end, lemma))
            things.append(thing)
        texts.append(text)
        offset += len(text) + 1
    return Caption(" ".join(texts), tuple(texts), tuple(phrases), tuple(things))


@cache
def _split(template: str) -> tuple[tuple[bool, str], ...]:
    pieces = re.split(r"\{(\w+)\}", template)
    return tuple((k % 2 == 1, piece) for k, piece in enumerate(pieces) if piece)
