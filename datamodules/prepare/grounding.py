"""Grounded captions, whichever release they come from, as samples: annotated phrases, and boxes linked to them.

The data set says where phrases are; sentences and lemmas are found around them. Where it gives no sentences the caption
is cut as any other, but never through an annotated phrase: sentences that a phrase runs across ("Dr." | "Smith's desk")
are merged. A phrase's lemma is that of the first noun phrase in it, so "a man in a blue shirt" is a man; each phrase is
parsed by itself, since the annotation knows better than a tagger where it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datamodules.granularity.cutting import Span, sentence_spans
from datamodules.granularity.extractors import Extractor
from datamodules.prepare.images import CheckedImage
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.prepare.text_cleaning import tidy, tidy_span
from datamodules.sample import Box, Phrase, Region, Sample


class CutCaption(NamedTuple):
    """A tidied caption. Every one of ``phrases`` lies in one of ``sentences``; ``labels`` say what some phrases are."""

    text: str
    sentences: Sequence[Span]
    phrases: Sequence[Span]
    labels: Mapping[Span, str] = {}


class GroundedImage(NamedTuple):
    """An image, its caption, and its boxes with the phrases of the caption that name each; ``name`` is for reports."""

    key: str
    name: str
    image: CheckedImage
    caption: CutCaption
    boxes: Sequence[tuple[Box, Sequence[Span]]]


def move_spans(text: str, tidied: str, spans: Iterable[Span], rejects: Rejects, name: object) -> dict[Span, Span]:
    """From each of ``spans``, characters of ``text``, to its position in ``tidied``. Those without one are counted."""
    moved: dict[Span, Span] = {}
    for span in dict.fromkeys(spans):
        try:
            moved[span] = tidy_span(text, tidied, span)
        except Rejected as error:
            rejects.add(error.reason, f"{name} {list(span)}")
    return moved


def tidy_caption(
    text: str, spans: Iterable[Span], extractor: Extractor, rejects: Rejects, name: object
) -> tuple[CutCaption, dict[Span, Span]]:
    """The caption of a ``text`` without given sentences, and where its annotated ``spans`` stand in it.

    Raises:
        Rejected: the text holds no letter or digit.
        NltkDataError: NLTK is to find sentences, and its data is missing.
    """
    tidied = tidy(text)
    sentences = sentence_spans(tidied, extractor)
    if not sentences:
        raise Rejected("no caption")
    moved = move_spans(text, tidied, spans, rejects, name)
    phrases = sorted(set(moved.values()))
    return CutCaption(tidied, _merge_sentences(sentences, phrases), phrases), moved


def grounded_sample(grounded: GroundedImage, extractor: Extractor | None, *, source: str, rejects: Rejects) -> Sample:
    """The sample of a grounded image.

    A box gives a region for each of its phrases, with the phrase's label; one without phrase or label where it has
    none. A box that is given twice for a phrase gives one region. A sample without boxes is counted as "no box".
    Without an ``extractor`` phrases have no lemmas.
    """
    if not grounded.boxes:
        rejects.add("no box", grounded.name)
    caption = grounded.caption
    phrases = _phrases(caption, extractor)
    index = {Span(phrase.start, phrase.end): i for i, phrase in enumerate(phrases)}
    regions: dict[Region, None] = {}
    for box, spans in grounded.boxes:
        linked = [Region(box, index[span], caption.labels.get(span)) for span in spans]
        regions.update(dict.fromkeys(linked or [Region(box)]))
    return Sample(
        key=grounded.key,
        image=grounded.image.data,
        caption=caption.text,
        sentences=tuple(caption.text[start:end] for start, end in caption.sentences),
        phrases=tuple(phrases),
        regions=tuple(regions),
        source=source,
        extension=grounded.image.extension,
    )


def _phrases(caption: CutCaption, extractor: Extractor | None) -> list[Phrase]:
    """The annotated phrases in reading order, with lemmas where there is an ``extractor``."""
    phrases: list[Phrase] = []
    spans = sorted(set(caption.phrases))
    for index, (start, end) in enumerate(caption.sentences):
        for span in spans:
            if start <= span.start and span.end <= end:
                text = caption.text[span.start : span.end]
                parts = extractor.phrases(text) if extractor else []
                lemma = next((part.lemma for part in parts if part.lemma and not part.stop), "")
                phrases.append(Phrase(text, index, span.start, span.end, lemma))
    return phrases


def _merge_sentences(sentences: list[Span], phrases: list[Span]) -> list[Span]:
    """``sentences``, those merged that a phrase runs across or stands outside of."""
    merged: list[Span] = []
    for span in sorted([*sentences, *phrases]):
        if merged and span.start < merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged
