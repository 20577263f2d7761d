"""Samples the texts of a training step (β-CLIP §3: one caption, some sentences, some phrases).

In training the choice is random with a seed per sample and epoch, so it does not depend on ranks or workers; in
evaluation it is the first ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from datamodules.batch import Grain
from datamodules.sample import Phrase, Sample


@dataclass(frozen=True)
class GrainSampling:
    """The number of texts of each grain that an image gives.

    Args:
        sentences: at most this many sentences (the paper: 5).
        phrases: at most this many phrases (the paper: 30).
        summaries: 1 gives the summary too, 0 leaves it out.
        summary: the ``stored`` one of the shard, or the first sentence where there is none; or always the first
            ``sentence``.
        choice: the sentences of training: ``random`` ones in random order, or the ``first`` ones in their order.
        caption: ``whole`` takes the caption as it is; ``sampled`` joins the drawn sentences in their random order, and
            takes phrases from these only, as the published β-CLIP code does.
        stop_phrases: at most this many of the phrases may be stop-phrases, which say nothing ("the image"); as many as
            ``phrases`` for the published β-CLIP code's choice, which does not tell them apart.
    """

    sentences: int = 5
    phrases: int = 30
    summaries: int = 0
    caption: Literal["whole", "sampled"] = "whole"
    summary: Literal["stored", "sentence"] = "stored"
    choice: Literal["random", "first"] = "random"
    stop_phrases: int = 0

    def __post_init__(self) -> None:
        for name in ("sentences", "phrases", "stop_phrases"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.summaries not in (0, 1):
            raise ValueError(f"summaries must be 0 or 1, got {self.summaries}")
        if self.summary not in ("stored", "sentence"):
            raise ValueError(f"summary must be 'stored' or 'sentence', got {self.summary!r}")
        if self.choice not in ("random", "first"):
            raise ValueError(f"choice must be 'random' or 'first', got {self.choice!r}")
        if self.caption not in ("whole", "sampled"):
            raise ValueError(f"caption must be 'whole' or 'sampled', got {self.caption!r}")
        if self.caption == "sampled" and self.sentences == 0:
            raise ValueError("caption 'sampled' joins the drawn sentences, so sentences must be at least 1, got 0")

    def draw(self, sample: Sample, rng: random.Random | None) -> SampledTexts:
        """The texts of ``sample`` for one step; ``rng`` None takes the first texts and the whole caption."""
        order = list(range(len(sample.sentences)))
        if rng is not None and self.choice == "random":
            rng.shuffle(order)
        order = order[: self.sentences]
        joined = rng is not None and self.caption == "sampled" and bool(order)
        caption = " ".join(sample.sentences[i] for i in order) if joined else sample.caption
        phrases = self._pool(sample, order if joined else range(len(sample.sentences)), rng)
        if rng is not None:
            rng.shuffle(phrases)
        opening = (sample.sentences or (sample.caption,))[0]
        summary = (sample.summary or opening) if self.summary == "stored" else opening
        return SampledTexts(
            caption=caption,
            summaries=[summary][: self.summaries],
            sentences=[sample.sentences[i] for i in order],
            phrases=_distinct(phrases, self.phrases),
            verbatim=not joined,
        )

    def _pool(self, sample: Sample, sentences: Sequence[int], rng: random.Random | None) -> list[Phrase]:
        """The phrases of ``sentences`` to draw from, in reading order."""
        phrases, stop = ([p for p in kind if p.sentence in sentences] for kind in (sample.phrases, sample.stop_phrases))
        if self.stop_phrases == 0:
            return phrases
        if rng is not None:
            rng.shuffle(stop)
        return sorted([*phrases, *stop[: self.stop_phrases]], key=lambda phrase: phrase.start)


@dataclass(frozen=True)
class SampledTexts:
    """The texts drawn from one sample. ``verbatim``: phrase offsets are those of ``caption``."""

    caption: str
    summaries: list[str]
    sentences: list[str]
    phrases: list[Phrase]
    verbatim: bool

    def texts(self) -> dict[Grain, list[str]]:
        """The texts of each grain."""
        return {
            Grain.CAPTION: [self.caption],
            Grain.SUMMARY: self.summaries,
            Grain.SENTENCE: self.sentences,
            Grain.PHRASE: [phrase.text for phrase in self.phrases],
        }


def _distinct(phrases: list[Phrase], limit: int) -> list[Phrase]:
    """The first ``limit`` phrases that differ in more than case."""
    distinct: dict[str, Phrase] = {}
    for phrase in phrases:
        if len(distinct) == limit:
            break
        distinct.setdefault(phrase.text.lower(), phrase)
    return list(distinct.values())
