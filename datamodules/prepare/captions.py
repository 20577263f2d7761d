"""Captions with annotated phrases: the data set says where phrases are, sentences and heads are found around them.

Where the data set gives no sentences the caption is cut as any other, but never through an annotated phrase: sentences
that a phrase runs across ("Dr." | "Smith's desk") are one. A phrase's lemma is that of the first noun phrase in it, so
"a man in a blue shirt" is a man; it is read by itself, since the annotation knows better than a tagger where it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datamodules.granularity.cutting import Span, sentence_spans
from datamodules.granularity.extractors import Extractor
from datamodules.prepare.rejected import LeftOut, Rejects
from datamodules.prepare.text_cleaning import tidy, tidy_span
from datamodules.sample import Phrase


class CutCaption(NamedTuple):
    """A tidied caption. Every one of ``phrases`` lies in one of ``sentences``; ``labels`` say what some phrases are."""

    text: str
    sentences: Sequence[Span]
    phrases: Sequence[Span]
    labels: Mapping[Span, str] = {}


def move_spans(text: str, tidied: str, spans: Iterable[Span], rejects: Rejects, name: object) -> dict[Span, Span]:
    """From each of ``spans``, characters of ``text``, to its place in ``tidied``. Those without one are counted."""
    moved: dict[Span, Span] = {}
    for span in dict.fromkeys(spans):
        try:
            moved[span] = tidy_span(text, tidied, span)
        except LeftOut as left:
            rejects.add(left.reason, f"{name} {list(span)}")
    return moved


def tidy_caption(
    text: str, spans: Iterable[Span], extractor: Extractor, rejects: Rejects, name: object
) -> tuple[CutCaption, dict[Span, Span]]:
    """The caption of a ``text`` without given sentences, and where its annotated ``spans`` stand in it.

    Raises:
        LeftOut: the text holds no letter or digit.
        NltkDataError: NLTK is to find sentences, and its data is missing.
    """
    tidied = tidy(text)
    sentences = sentence_spans(tidied, extractor)
    if not sentences:
        raise LeftOut("no caption")
    moved = move_spans(text, tidied, spans, rejects, name)
    phrases = sorted(set(moved.values()))
    return CutCaption(tidied, _whole(sentences, phrases), phrases), moved


def phrases_at(caption: CutCaption, extractor: Extractor | None) -> list[Phrase]:
    """The annotated phrases in reading order, with lemmas where there is an ``extractor``."""
    phrases: list[Phrase] = []
    spans = sorted(set(caption.phrases))
    for index, (start, end) in enumerate(caption.sentences):
        for span in spans:
            if start <= span.start and span.end <= end:
                text = caption.text[span.start : span.end]
                found = extractor.phrases(text) if extractor else []
                lemma = next((one.lemma for one in found if one.lemma and not one.stop), "")
                phrases.append(Phrase(text, index, span.start, span.end, lemma))
    return phrases


def _whole(sentences: list[Span], phrases: list[Span]) -> list[Span]:
    """``sentences``, those made one that a phrase runs across or stands outside of."""
    merged: list[Span] = []
    for span in sorted([*sentences, *phrases]):
        if merged and span.start < merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged
