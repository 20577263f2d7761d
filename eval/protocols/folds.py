"""Retrieval within folds: COCO's "1k test", the mean of five folds of 1000 images (Karpathy, CVPR 2015; VSE++).

The images are cut, in the file's order, into folds of one size; each is a test set of its own with a fifth of the
candidates, which makes it easier. A number is the mean of the folds'.
"""

from __future__ import annotations

import torch

from eval.interfaces import EvalContext, Model, Result
from eval.metrics.bidirectional_ranking import BidirectionalRanks, rank_bidirectional
from eval.protocols.image_text_retrieval import SHORT_KS, Embedded, ImageTexts, embed_both, way_items, way_numbers
from eval.results.per_item import Items, Mean


def retrieve_in_folds(
    name: str, model: Model, run: EvalContext, data: ImageTexts, words: str, folds: int = 5
) -> Result:
    """Embed once, rank within each fold; ``words`` tell the protocol. Collective.

    Raises ValueError where there are fewer images than folds. Images that are missing leave folds of uneven size.
    """
    if len(data.images) < folds:
        raise ValueError(
            f"{name} needs an image for each of {folds} folds, got {len(data.images)}; {dict(data.counts)}"
        )
    found = embed_both(name, model, run, data, words)
    parts = [_within(found, fold) for fold in torch.arange(len(found.images)).tensor_split(folds)]
    every = [way_numbers(name, ranks, SHORT_KS) for _, _, ranks in parts]
    numbers = {key: sum(one[key] for one in every) / folds for key in every[0]}
    for key in [key for key in numbers if key.endswith("/queries")]:
        numbers[key] *= folds
    tables: dict[str, Items] = {}
    for fold, (images, texts, ranks) in enumerate(parts):
        names, read = [data.images[n].name for n in images], [found.read[n] for n in texts]
        owner = found.owner[texts] - images[0]
        for key, items in way_items(name, names, read, owner, ranks, SHORT_KS).items():
            _append(tables, key, items, fold)
    settings = found.settings | {"folds": [len(images) for images, _, _ in parts]}
    return Result(numbers, settings, found.counts, tables)


def _within(found: Embedded, fold: torch.Tensor) -> tuple[list[int], list[int], BidirectionalRanks]:
    """The images of a fold, their texts, and their ranks."""
    texts = ((found.owner >= fold[0]) & (found.owner <= fold[-1])).nonzero().squeeze(1)
    ranks = rank_bidirectional(found.images[fold], found.texts[texts], found.owner[texts] - fold[0])
    return fold.tolist(), texts.tolist(), ranks


def _append(tables: dict[str, Items], key: str, items: Items, fold: int) -> None:
    columns = items.columns | {"fold": [fold] * len(items.columns["image"])}
    if key in tables:
        columns = {name: tables[key].columns[name] + values for name, values in columns.items()}
    tables[key] = Items(columns, {n: Mean(mean.value, group="fold") for n, mean in items.means.items()}, "image")
