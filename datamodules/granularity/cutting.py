"""Cut a caption into its grains: sentences, and the phrases in them.

Sentences are an extractor's boundaries (NLTK's Punkt), corrected where captions differ from newswire: sign texts
in quotes stay whole, "approx. 3 in. wide" and "$1. 00" are not ends, "the wall.The boar" is one, line breaks end a
sentence only between paragraphs, list items and headings. List markers belong to no sentence. β-CLIP splits at ". "
(spec of its data: no abbreviations, the period lost); here every sentence is a verbatim piece of its caption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from datamodules.granularity.extractors import NLTK, Extractor
from datamodules.sample import Phrase

CUTTING = 3  # raise it with any change of how captions are cut: shards of two versions must not be mixed


class Span(NamedTuple):
    """Characters ``[start, end)`` of a text."""

    start: int
    end: int


class CutPhrases(NamedTuple):
    """A caption's phrases in reading order; ``stop_phrases`` say nothing of what the image shows."""

    phrases: tuple[Phrase, ...]
    stop_phrases: tuple[Phrase, ...]


def split_sentences(text: str, extractor: Extractor = NLTK) -> list[str]:
    """The sentences of ``text``, in order: verbatim, disjoint pieces of it without surrounding space.

    Raises ``NltkDataError`` where NLTK is to find them and its data is missing.
    """
    return [text[start:end] for start, end in sentence_spans(text, extractor)]


def sentence_spans(text: str, extractor: Extractor = NLTK) -> list[Span]:
    """The sentences of ``text`` as character spans. Pieces without a letter or digit are left out."""
    spans = []
    for block in _blocks(text):
        cuts = [block.start, *_starts_inside(text, block, extractor), block.end]
        spans += [_strip_span(text, start, end) for start, end in pairwise(cuts)]
    return [span for span in spans if _WORD.search(text, *span)]


def extract_phrases(caption: str, sentences: Sequence[str], extractor: Extractor = NLTK) -> list[Phrase]:
    """The phrases of a caption in reading order: noun phrases, relations ("next to"), actions ("attached to").

    ``sentences`` are pieces of ``caption`` in order, as ``split_sentences`` gives them. A phrase keeps the words and
    case of the text (``caption[start:end] == text``). ``lemma`` is the base form of a noun phrase's head, and "" for
    relations and actions, which name no thing. Stop-phrases, which say nothing ("the image", "the left side"), and
    pronouns are left out; of phrases that differ in case or spaces only, the first stays.

    Raises ``ValueError`` for a sentence that is not in the caption, ``NltkDataError`` where NLTK is to find the phrases
    and its data is missing.
    """
    return list(cut_phrases(caption, sentences, extractor).phrases)


def cut_phrases(caption: str, sentences: Sequence[str], extractor: Extractor = NLTK) -> CutPhrases:
    """The phrases as ``extract_phrases`` gives them, and the stop-phrases too."""
    kinds: tuple[dict[str, Phrase], dict[str, Phrase]] = {}, {}
    end = 0
    for index, sentence in enumerate(sentences):
        start = caption.find(sentence, end)
        if start < 0 or not sentence:
            raise ValueError(f"sentences must be pieces of the caption, in order; sentence {index} is {sentence!r}")
        end = start + len(sentence)
        for phrase in extractor.phrases(sentence):
            span = Span(start + phrase.start, start + phrase.end)
            text = caption[span.start : span.end]
            phrases = kinds[phrase.stop]
            phrases.setdefault(" ".join(text.lower().split()), Phrase(text, index, *span, phrase.lemma))
    return CutPhrases(*(tuple(kind.values()) for kind in kinds))


_WORD = re.compile(r"\w")
_LINE_BREAK = re.compile(r"\r\n|[\r\n\u2028\u2029]")
_LINE_GAP = re.compile(rf"(?:{_LINE_BREAK.pattern})\s*")
_MARKER = re.compile(r"(?:[-*•·‣▪–—]|\(?\d{1,2}[.)]|\(?[A-Za-z]\))\s+")
_LINE_CONTINUES = re.compile(
    r"(?:,|\b(?:a|an|the|and|or|of|in|on|at|to|by|for|from|with|is|are|as|his|her|its|their|near|left|right))$", re.I
)


def _blocks(text: str) -> Iterator[Span]:
    """The pieces of ``text`` between line breaks that end a sentence."""
    start = 0
    for gap in _LINE_GAP.finditer(text):
        if _ends_sentence(text, start, gap):
            yield Span(start, gap.start())
            start = gap.end()
    yield Span(start, len(text))


def _ends_sentence(text: str, start: int, gap: re.Match[str]) -> bool:
    """True if this line break ends a sentence; False if the line is only wrapped."""
    line, next_character = text[max(start, gap.start() - _TAIL) : gap.start()].rstrip(), text[gap.end() : gap.end() + 1]
    if len(_LINE_BREAK.findall(gap.group())) > 1 or _MARKER.match(text, gap.end()):
        return True
    return not (
        _LINE_CONTINUES.search(line) or next_character.islower() or next_character.isdigit() or next_character in ",;:)"
    )


_QUOTED = re.compile(r'(?<![\w"])"(?=\S)[^"]{1,200}(?:(?<=\S)|(?<=[.!?] ))"(?!\w)|“[^“”]{1,200}”')
_MISSED_START = re.compile(
    r"""(?<=[a-z][a-z)][.!?])(?=[A-Z][a-z]*[\s,'’])  # the wall.The boar
      | (?<=\b[A-Z]\.)["”]?\s+(?=(?:An?|The|There|It|Its|This|These|On|In|To|Above|Below|Along)\s)  # letter S. There
    """,
    re.VERBOSE,
)
_ABBREVIATIONS = {"approx", "ca", "e.g", "i.e", "vs", "mr", "mrs", "ms", "dr", "prof", "st", "mt"}
_ABBREVIATIONS_INSIDE = {
    *("a.m", "apt", "ave", "avg", "blvd", "cm", "co", "corp", "dept", "est", "etc", "fig", "figs", "ft", "hr", "hrs"),
    *("hwy", "inc", "jr", "kg", "km", "lb", "lbs", "ltd", "max", "min", "misc", "mm", "no", "nos", "oz", "p.m", "pp"),
    *("rd", "rt", "rte", "sq", "sr", "u.k", "u.s", "u.s.a", "vol", "yd", "yrs"),
}
_LAST_WORD = re.compile(r"([\w.]*\w)\.$")
_TAIL = 40  # characters of a piece's end that are checked


def _starts_inside(text: str, block: Span, extractor: Extractor) -> list[int]:
    """The starts of sentences inside ``block``, without its own start."""
    piece = text[block.start : block.end]
    starts = set(extractor.sentence_starts(piece))
    starts |= {match.end() for match in _MISSED_START.finditer(piece)}
    quoted = [match.span() for match in _QUOTED.finditer(piece)]
    cuts, last = [], 0
    for start in sorted(starts - {0}):
        in_quotes = any(q0 < start < q1 for q0, q1 in quoted)
        if not in_quotes and not _is_one_sentence(piece[last:start].rstrip(), piece[start : start + 3]):
            cuts.append(block.start + start)
            last = start
    return cuts


def _is_one_sentence(before: str, after: str) -> bool:
    """True if ``before`` and ``after`` are one sentence, though Punkt finds an end between them."""
    if not after or after[0] in ",;:)]" or not _WORD.search(before) or _MARKER.fullmatch(before + " "):
        return True
    lower, digit = after[0].islower(), after[0].isdigit()
    tail = before[-_TAIL:]
    if lower and re.search(r"[!?…]$|\.\.$|[.!?]\s?['\"”’)\]]+$", tail):
        return True
    word = _LAST_WORD.search(tail)
    if word is None:
        return False
    last = word.group(1).lower()
    if last in _ABBREVIATIONS or ((lower or digit) and last in _ABBREVIATIONS_INSIDE and not (last == "no" and lower)):
        return True
    if last == "in" and lower:  # inches
        return re.search(r"\d\s?[Ii]n\.$", tail) is not None
    return last[-1].isdigit() and re.match(r"\d\d(?!\w)", after) is not None  # "$1. 00"


def _strip_span(text: str, start: int, end: int) -> Span:
    """The span without surrounding space and without a list marker."""
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end = start + len(text[start:end].rstrip())
    marker = _MARKER.match(text, start, end)
    return Span(marker.end(), end) if marker and marker.end() < end else Span(start, end)
