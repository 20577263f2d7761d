"""Retrieval on a released data set: images, each with one or more captions, both ways, as the papers count it.

A reader makes an ``ImageTexts``; all readers share what follows: the wording, the fit, the embeddings, the ranks. A
image without any caption left is an error of the reader, not a candidate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.data.cache import digest
from eval.data.caption_preprocessing import Wording, raw
from eval.data.image_files import present
from eval.data.image_preprocessing import Fit, centre_crop
from eval.data.records import require_characters
from eval.data.sources import ImageFile, Source
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.bidirectional_ranking import BidirectionalRanks, rank_bidirectional
from eval.metrics.ranking import Ranks, Ties
from eval.protocols.embed import embed_images, embed_texts
from eval.results.per_item import Items, Mean

SHORT_KS = (1, 5, 10)
LONG_KS = (1, 5, 10, 25, 50)  # GOAL's too


@dataclass
class ImageTexts:
    """Images and the captions of each; the files read with their SHA-256; what was left out, and why."""

    images: list[Source]
    captions: list[list[str]]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def sha256(self) -> str:
        """Of what is compared: the images' names and their captions, in order, as released."""
        pairs = zip(self.images, self.captions, strict=True)
        return digest(part for image, texts in pairs for part in (image.name, *texts, ""))


def gather_files(
    named: Sequence[tuple[Path, str, list[str]]], source: Path, files: dict[str, str], run: EvalContext
) -> ImageTexts:
    """Captions of files (path, name, captions), those that are missing told or counted as ``EvalContext`` wants it.

    Raises FileNotFoundError where images are missing, ValueError where two have one name or one has no caption.
    """
    seen: set[str] = set()
    for _, name, captions in named:
        if name in seen:
            raise ValueError(f"{source}: every image must be listed once, got {name!r} twice")
        if not captions:
            raise ValueError(f"{source}: every image must have a caption, got none for {name!r}")
        require_characters(f"{source}: a caption of {name!r}", captions)
        seen.add(name)
    counts: Counter[str] = Counter()
    items = [(file, (ImageFile(file, name), captions)) for file, name, captions in named]
    there = present(items, source, run.skip_missing, counts)
    return ImageTexts([image for image, _ in there], [texts for _, texts in there], files, counts)


class Embedded(NamedTuple):
    """A data set embedded: unit vectors, the texts as they were read, the image of each; and settings and counts for
    the results.
    """

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "M D"]
    read: list[str]
    owner: Int[Tensor, " M"]
    settings: dict[str, Any]
    counts: dict[str, int]


def retrieve(
    name: str,
    model: Model,
    run: EvalContext,
    data: ImageTexts,
    words: str,
    ks: Sequence[int] = SHORT_KS,
    wording: Wording = raw,
    fit: Fit = centre_crop,
) -> Result:
    """Embed, rank, count; ``words`` tell the protocol. Collective: all ranks return the same."""
    found = embed_both(name, model, run, data, words, wording, fit)
    ranks = rank_bidirectional(found.images, found.texts, found.owner)
    names = [image.name for image in data.images]
    return Result(
        way_numbers(name, ranks, ks),
        found.settings,
        found.counts,
        way_items(name, names, found.read, found.owner, ranks, ks),
    )


def embed_both(
    name: str,
    model: Model,
    run: EvalContext,
    data: ImageTexts,
    words: str,
    wording: Wording = raw,
    fit: Fit = centre_crop,
) -> Embedded:
    """Images and captions; the run's own wording and fit go first. Collective.

    Raises ValueError where no image is left.
    """
    wording, fit = run.wording or wording, run.fit or fit
    texts = [wording(text) for captions in data.captions for text in captions]
    if not texts:
        raise ValueError(f"{name}: no image is left; left out: {dict(data.counts)}")
    owner = torch.tensor([i for i, captions in enumerate(data.captions) for _ in captions], dtype=torch.long)
    counts = dict(data.counts | text_counts(model, texts))
    settings: dict[str, Any] = {
        "protocol": words,
        "image": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "caption": wording.__name__,
        "context length": model.context_length,
        "images": len(data.images),
        "texts": len(texts),
        "split sha256": data.sha256,
        "files": data.files,
        "counts": counts,
    }
    images = embed_images(model, run, data.images, fit, name)
    return Embedded(images, embed_texts(model, run, texts, name), texts, owner, settings, counts)


def text_counts(model: Model, texts: Sequence[str]) -> Counter[str]:
    """Counts of texts that the model does not read to their end, and of empty ones."""
    counts: Counter[str] = Counter()
    counts[f"text cut at {model.context_length} tokens"] = sum(
        model.token_count(text) > model.context_length for text in texts
    )
    counts["empty text"] = sum(not text.strip() for text in texts)
    return +counts


def way_numbers(name: str, ranks: BidirectionalRanks, ks: Sequence[int]) -> dict[str, float]:
    """The numbers of both directions."""
    chance = 1 / len(ranks.image_to_text.optimistic)
    return {
        **_numbers(f"{name}/text_to_image", ranks.text_to_image, ks, chance),
        **_numbers(f"{name}/image_to_text", ranks.image_to_text, ks, chance),
    }


def _numbers(head: str, ranks: Ranks, ks: Sequence[int], chance: float) -> dict[str, float]:
    # A guess is right at chance 1/N in both directions: M texts, of which M/N are right on average over images.
    best = ranks.optimistic.double()
    return {
        **{f"{head}/R@{k}": ranks.recall(k) for k in ks},
        **{f"{head}/strict_R@{k}": ranks.recall(k, Ties.PESSIMISTIC) for k in ks[:1]},
        f"{head}/mean_rank": best.mean().item() + 1,
        f"{head}/median_rank": float(math.floor(best.quantile(0.5).item()) + 1),
        f"{head}/chance": chance,
        f"{head}/ties": ranks.tied(),
        f"{head}/queries": float(len(best)),
    }


def way_items(
    name: str,
    names: list[str],
    texts: list[str],
    owner: Int[Tensor, " M"],
    ranks: BidirectionalRanks,
    ks: Sequence[int],
) -> dict[str, Items]:
    """A table for each direction; ``names`` are the images'."""
    asked = {
        "text_to_image": {
            "image": [names[i] for i in owner.tolist()],
            "text": texts,
            "nearest": [names[i] for i in ranks.nearest_image.tolist()],
        },
        "image_to_text": {"image": names, "nearest": [texts[i] for i in ranks.nearest_text.tolist()]},
    }
    return {
        f"{name}/{way}": Items(
            columns | rank_columns(found, ks), {f"{name}/{way}/R@{k}": Mean(f"R@{k}") for k in ks}, "image"
        )
        for (way, columns), found in zip(asked.items(), (ranks.text_to_image, ranks.image_to_text), strict=True)
    }


def rank_columns(ranks: Ranks, ks: Sequence[int]) -> dict[str, list[Any]]:
    """Rank, 0 the best, whether it is tied, and the hits, as columns of ``Items``."""
    return {
        "rank": ranks.optimistic.tolist(),
        "tied": (ranks.optimistic != ranks.pessimistic).tolist(),
        **{f"R@{k}": ranks.hits(k).tolist() for k in ks},
    }
