"""Retrieval on a released data set: images, each with one or more captions, in both directions, as papers count it.

A reader makes an ``ImageTexts``; wording, fit, embeddings and ranks are the same for all readers. An image without a
caption is an error of the reader, not a candidate.
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
from eval.data.find_file import with_files
from eval.data.image_preprocessing import Fit, centre_crop, fit_setting
from eval.data.records import require_characters
from eval.data.sources import ImageFile, ImageSource
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.bidirectional_ranking import BidirectionalRanks, rank_bidirectional
from eval.metrics.ranking import Ranks, Ties
from eval.protocols.embed import embed_images, embed_texts
from eval.results.per_item import Items, Mean

SHORT_KS = (1, 5, 10)
LONG_KS = (1, 5, 10, 25, 50)  # GOAL's too


@dataclass
class ImageTexts:
    """Images and the captions of each; the files read with their SHA-256; counts of what was left out, by reason."""

    images: list[ImageSource]
    captions: list[list[str]]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def sha256(self) -> str:
        """Of the data that are compared: the images' names and their captions, in order, as released."""
        pairs = zip(self.images, self.captions, strict=True)
        return digest(part for image, texts in pairs for part in (image.name, *texts, ""))


def gather_files(
    records: Sequence[tuple[Path, str, list[str]]], annotations: Path, files: dict[str, str], run: EvalContext
) -> ImageTexts:
    """The records (path, name, captions) whose image exists; ``run`` decides whether a missing one is an error.

    Raises FileNotFoundError where images are missing, ValueError where two have one name or one has no caption.
    """
    names: set[str] = set()
    for _, name, captions in records:
        if name in names:
            raise ValueError(f"{annotations}: every image must be listed once, got {name!r} twice")
        if not captions:
            raise ValueError(f"{annotations}: every image must have a caption, got none for {name!r}")
        require_characters(f"{annotations}: a caption of {name!r}", captions)
        names.add(name)
    counts: Counter[str] = Counter()
    items = [(file, (ImageFile(file, name), captions)) for file, name, captions in records]
    present = with_files(items, annotations, run.skip_missing, counts)
    return ImageTexts([image for image, _ in present], [texts for _, texts in present], files, counts)


class Embedded(NamedTuple):
    """An embedded data set: unit vectors, the captions after the wording, the image of each; and settings and counts
    for the results.
    """

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "M D"]
    captions: list[str]
    owner: Int[Tensor, " M"]
    settings: dict[str, Any]
    counts: dict[str, int]


def retrieve(
    name: str,
    model: Model,
    run: EvalContext,
    data: ImageTexts,
    protocol: str,
    ks: Sequence[int] = SHORT_KS,
    wording: Wording = raw,
    fit: Fit = centre_crop,
) -> Result:
    """Embed, rank, count; ``protocol`` describes the protocol in the results. Collective: all ranks return the same."""
    embedded = _embed(name, model, run, data, protocol, wording, fit)
    ranks = rank_bidirectional(embedded.images, embedded.texts, embedded.owner)
    names = [image.name for image in data.images]
    items = _items(name, names, embedded.captions, embedded.owner, ranks, ks)
    return Result(_numbers(name, ranks, ks), embedded.settings, embedded.counts, items)


def retrieve_in_folds(
    name: str, model: Model, run: EvalContext, data: ImageTexts, protocol: str, folds: int = 5
) -> Result:
    """COCO's "1k test": numbers are means over five folds of 1000 images (Karpathy, CVPR 2015; VSE++). Collective.

    The images are cut, in the file's order, into folds of equal size. Each is a test set of its own, which is easier,
    as it has a fifth of the candidates. Folds are uneven where images are missing.

    Raises ValueError where there are fewer images than folds.
    """
    if len(data.images) < folds:
        raise ValueError(
            f"{name} needs an image for each of {folds} folds, got {len(data.images)}; {dict(data.counts)}"
        )
    embedded = _embed(name, model, run, data, protocol)
    parts = [_rank_fold(embedded, fold) for fold in torch.arange(len(embedded.images)).tensor_split(folds)]
    fold_numbers = [_numbers(name, ranks, SHORT_KS) for _, _, ranks in parts]
    numbers = {key: sum(values[key] for values in fold_numbers) / folds for key in fold_numbers[0]}
    for key in [key for key in numbers if key.endswith("/queries")]:
        numbers[key] *= folds
    tables: dict[str, Items] = {}
    for fold, (images, texts, ranks) in enumerate(parts):
        names, captions = [data.images[n].name for n in images], [embedded.captions[n] for n in texts]
        owner = embedded.owner[texts] - images[0]
        for key, items in _items(name, names, captions, owner, ranks, SHORT_KS).items():
            _append(tables, key, items, fold)
    settings = embedded.settings | {"folds": [len(images) for images, _, _ in parts]}
    return Result(numbers, settings, embedded.counts, tables)


def _rank_fold(embedded: Embedded, fold: Int[Tensor, " n"]) -> tuple[list[int], list[int], BidirectionalRanks]:
    """The images of a fold, their texts, and their ranks."""
    texts = ((embedded.owner >= fold[0]) & (embedded.owner <= fold[-1])).nonzero().squeeze(1)
    ranks = rank_bidirectional(embedded.images[fold], embedded.texts[texts], embedded.owner[texts] - fold[0])
    return fold.tolist(), texts.tolist(), ranks


def _append(tables: dict[str, Items], key: str, items: Items, fold: int) -> None:
    columns = items.columns | {"fold": [fold] * len(items.columns["image"])}
    if key in tables:
        columns = {name: tables[key].columns[name] + values for name, values in columns.items()}
    tables[key] = Items(columns, {n: Mean(mean.value, group="fold") for n, mean in items.means.items()}, "image")


def _embed(
    name: str,
    model: Model,
    run: EvalContext,
    data: ImageTexts,
    protocol: str,
    wording: Wording = raw,
    fit: Fit = centre_crop,
) -> Embedded:
    """Embed images and captions; the run's wording and fit replace the benchmark's. Collective.

    Raises ValueError where no image is left.
    """
    wording, fit = run.wording or wording, run.fit or fit
    texts = [wording(text) for captions in data.captions for text in captions]
    if not texts:
        raise ValueError(f"{name}: no image is left; left out: {dict(data.counts)}")
    owner = torch.tensor([i for i, captions in enumerate(data.captions) for _ in captions], dtype=torch.long)
    counts = dict(data.counts | text_counts(model, texts))
    settings: dict[str, Any] = {
        "protocol": protocol,
        "image": fit_setting(fit, model.image_size),
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
    """The numbers of texts that the model cuts, and of empty texts."""
    counts: Counter[str] = Counter()
    counts[f"text cut at {model.context_length} tokens"] = sum(
        model.token_count(text) > model.context_length for text in texts
    )
    counts["empty text"] = sum(not text.strip() for text in texts)
    return +counts


def _numbers(name: str, ranks: BidirectionalRanks, ks: Sequence[int]) -> dict[str, float]:
    """The numbers of both directions."""
    # A guess is right at chance 1/N in both directions: M texts, of which M/N are right on average over images.
    chance = 1 / len(ranks.image_to_text.optimistic)
    numbers: dict[str, float] = {}
    for direction, direction_ranks in ranks.by_direction().items():
        numbers |= _direction_numbers(f"{name}/{direction}", direction_ranks, ks, chance)
    return numbers


def _direction_numbers(head: str, ranks: Ranks, ks: Sequence[int], chance: float) -> dict[str, float]:
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


def _items(
    name: str,
    names: list[str],
    texts: list[str],
    owner: Int[Tensor, " M"],
    ranks: BidirectionalRanks,
    ks: Sequence[int],
) -> dict[str, Items]:
    """A table for each direction; ``names`` are the images'."""
    columns = {
        "text_to_image": {
            "image": [names[i] for i in owner.tolist()],
            "text": texts,
            "nearest": [names[i] for i in ranks.nearest_image.tolist()],
        },
        "image_to_text": {"image": names, "nearest": [texts[i] for i in ranks.nearest_text.tolist()]},
    }
    tables: dict[str, Items] = {}
    for direction, direction_ranks in ranks.by_direction().items():
        head = f"{name}/{direction}"
        means = {f"{head}/R@{k}": Mean(f"R@{k}") for k in ks}
        tables[head] = Items(columns[direction] | _rank_columns(direction_ranks, ks), means, "image")
    return tables


def _rank_columns(ranks: Ranks, ks: Sequence[int]) -> dict[str, list[Any]]:
    """Rank (from 0), whether it is tied, and the hits, as columns of ``Items``."""
    return {
        "rank": ranks.optimistic.tolist(),
        "tied": (ranks.optimistic != ranks.pessimistic).tolist(),
        **{f"R@{k}": ranks.hits(k).tolist() for k in ks},
    }
