"""Which of a sample's texts are learnt from in this step (β-CLIP §3: one caption, some sentences, some phrases).

In training the choice is random with a seed per sample and epoch, so it does not depend on ranks or workers; in
evaluation it is the first ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from datamodules.sample import Phrase, Sample


@dataclass(frozen=True)
class GrainSampling:
    """How many texts of each grain an image brings.

    Args:
        sentences: at most this many sentences (the paper: 5).
        phrases: at most this many phrases (the paper: 30).
        summaries: 1 also brings the summary (a shard's own, else the first sentence), 0 leaves it out.
        caption: ``whole`` takes the caption as it is; ``sampled`` joins the drawn sentences in their random order, and
            takes phrases from these only, as the published β-CLIP code does.
    """

    sentences: int = 5
    phrases: int = 30
    summaries: int = 0
    caption: Literal["whole", "sampled"] = "whole"

    def __post_init__(self) -> None:
        for name in ("sentences", "phrases"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.summaries not in (0, 1):
            raise ValueError(f"summaries must be 0 or 1, got {self.summaries}")
        if self.caption not in ("whole", "sampled"):
            raise ValueError(f"caption must be 'whole' or 'sampled', got {self.caption!r}")
        if self.caption == "sampled" and self.sentences == 0:
            raise ValueError("caption 'sampled' joins the drawn sentences, so sentences must be at least 1, got 0")

    def draw(self, sample: Sample, rng: random.Random | None) -> Drawn:
        """The texts of ``sample`` for one step; ``rng`` None takes the first ones and the whole caption."""
        order = list(range(len(sample.sentences)))
        if rng is not None:
            rng.shuffle(order)
        order = order[: self.sentences]
        joined = rng is not None and self.caption == "sampled" and bool(order)
        caption = " ".join(sample.sentences[i] for i in order) if joined else sample.caption
        phrases = [p for p in sample.phrases if p.sentence in order] if joined else list(sample.phrases)
        if rng is not None:
            rng.shuffle(phrases)
        return Drawn(
            caption=caption,
            summaries=[sample.summary or (sample.sentences or (sample.caption,))[0]][: self.summaries],
            sentences=[sample.sentences[i] for i in order],
            phrases=_distinct(phrases, self.phrases),
            verbatim=not joined,
        )


@dataclass(frozen=True)
class Drawn:
    """The texts drawn from one sample. ``verbatim``: phrase offsets are those of ``caption``."""

    caption: str
    summaries: list[str]
    sentences: list[str]
    phrases: list[Phrase]
    verbatim: bool


def _distinct(phrases: list[Phrase], limit: int) -> list[Phrase]:
    """The first ``limit`` phrases that differ in more than case."""
    kept: dict[str, Phrase] = {}
    for phrase in phrases:
        if len(kept) == limit:
            break
        kept.setdefault(phrase.text.lower(), phrase)
    return list(kept.values())
