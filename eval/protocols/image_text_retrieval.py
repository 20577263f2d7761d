"""Retrieval on a released data set: images, each with one or more captions, in both directions, as papers count it.
Beside it, where the run asks: the same with the nearest candidates re-ranked by text-conditioned pooling.

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
from eval.metrics.ranking import Ties
from eval.metrics.reranking import rerank
from eval.protocols.embed import embed_images, embed_texts
from eval.protocols.reranking import pooled_cosines
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
    """An embedded data set: unit vectors, image names, captions after the wording, and the image of each caption."""

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "M D"]
    names: list[str]
    captions: list[str]
    owner: Int[Tensor, " M"]

    def rank(self) -> BidirectionalRanks:
        """Ranks in both directions."""
        return rank_bidirectional(self.images, self.texts, self.owner)

    def part(self, start: int, stop: int) -> Embedded:
        """The images from ``start`` to ``stop`` and their captions."""
        rows = ((self.owner >= start) & (self.owner < stop)).nonzero().squeeze(1)
        captions = [self.captions[n] for n in rows.tolist()]
        return Embedded(
            self.images[start:stop], self.texts[rows], self.names[start:stop], captions, self.owner[rows] - start
        )


def retrieve(
    name: str,
    model: Model,
    run: EvalContext,
    data: ImageTexts,
    protocol: str,
    ks: Sequence[int] = SHORT_KS,
    wording: Wording = raw,
    fit: Fit = centre_crop,
    image_rows: Float[Tensor, "N D"] | None = None,
) -> Result:
    """Embed, rank, count; ``protocol`` describes the protocol in the results. Collective: all ranks return the same.

    ``image_rows`` are the images' unit vectors by this fit, where the caller has them already.

    With ``run.rerank`` both are there: ``NAME/text_to_image`` by cosine, ``NAME/reranked_K/text_to_image`` re-ranked.
    Raises ValueError where the model cannot re-rank.
    """
    embedded, settings = _embed(name, model, run, data, protocol, wording, fit, image_rows)
    numbers: dict[str, float] = {}
    tables: dict[str, Items] = {}
    for head, ranks in _rankings(name, model, run, embedded, data.images, run.fit or fit).items():
        numbers |= _numbers(head, ranks, ks)
        tables |= _items(head, embedded, ranks, ks)
    return Result(numbers, settings, settings["counts"], tables)


def retrieve_in_folds(
    name: str, model: Model, run: EvalContext, data: ImageTexts, protocol: str, folds: int = 5
) -> Result:
    """COCO's "1k test": numbers are means over five folds of 1000 images (Karpathy, CVPR 2015; VSE++). Collective.

    The images are cut, in the file's order, into folds of equal size. Each is a test set of its own, which is easier,
    as it has a fifth of the candidates. Folds are uneven where images are missing.

    Raises ValueError where there are fewer images than folds.
    """
    if len(data.images) < folds:
        count = len(data.images)
        raise ValueError(f"{name} needs an image for each of {folds} folds, got {count}; {dict(data.counts)}")
    embedded, settings = _embed(name, model, run, data, protocol)
    folded = torch.arange(len(embedded.images)).tensor_split(folds)
    fold_numbers: list[dict[str, float]] = [{} for _ in folded]
    tables: dict[str, Items] = {}
    for fold, rows in enumerate(folded):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        part = embedded.part(start, stop)
        rankings = _rankings(name, model, run, part, data.images[start:stop], run.fit or centre_crop)
        for head, ranks in rankings.items():
            fold_numbers[fold] |= _numbers(head, ranks, SHORT_KS)
            for key, items in _items(head, part, ranks, SHORT_KS).items():
                _append(tables, key, items, fold)
    numbers = {key: sum(values[key] for values in fold_numbers) / folds for key in fold_numbers[0]}
    for key in [key for key in numbers if key.endswith("/queries")]:
        numbers[key] *= folds
    settings["folds"] = [len(rows) for rows in folded]
    return Result(numbers, settings, settings["counts"], tables)


def _rankings(
    name: str, model: Any, run: EvalContext, embedded: Embedded, images: Sequence[ImageSource], fit: Fit
) -> dict[str, BidirectionalRanks]:
    """The ranks by cosine and, where the run asks, those after re-ranking, by the head of their names. Collective."""
    rankings = {name: embedded.rank()}
    if run.rerank is not None:

        def score(pairs: Int[Tensor, "P 2"]) -> Float[Tensor, " P"]:
            return pooled_cosines(model, run, images, fit, embedded.texts, pairs, name)

        reranked = rerank(embedded.images, embedded.texts, embedded.owner, run.rerank, score)
        rankings[f"{name}/reranked_{run.rerank}"] = reranked
    return rankings


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
    image_rows: Float[Tensor, "N D"] | None = None,
) -> tuple[Embedded, dict[str, Any]]:
    """Embed images and captions; the run's wording and fit replace the benchmark's. Also the settings. Collective.

    Raises ValueError where no image is left.
    """
    wording, fit = run.wording or wording, run.fit or fit
    texts = [wording(text) for captions in data.captions for text in captions]
    if not texts:
        raise ValueError(f"{name}: no image is left; left out: {dict(data.counts)}")
    owner = torch.tensor([i for i, captions in enumerate(data.captions) for _ in captions], dtype=torch.long)
    settings = embedding_settings(model, protocol, fit, wording, len(data.images), len(texts)) | {
        "split sha256": data.sha256,
        "files": data.files,
        "counts": dict(data.counts | text_counts(model, texts)),
    }
    if run.rerank is not None:
        settings["reranked"] = (
            f"reranked_{run.rerank}: the {run.rerank} nearest candidates of each query by cosine, in the order of the "
            "cosine of the text and the image pooled by it; the rest behind them"
        )
    images = embed_images(model, run, data.images, fit, name) if image_rows is None else image_rows
    names = [image.name for image in data.images]
    return Embedded(images, embed_texts(model, run, texts, name), names, texts, owner), settings


def embedding_settings(
    model: Model, protocol: str, fit: Fit, wording: Wording, images: int, texts: int
) -> dict[str, Any]:
    """The protocol, how so many images and texts are prepared, and their numbers, for the file of results."""
    return {
        "protocol": protocol,
        "image": fit_setting(fit, model.image_size),
        "caption": wording.__name__,
        "context length": model.context_length,
        "images": images,
        "texts": texts,
    }


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
        head, best = f"{name}/{direction}", direction_ranks.optimistic.double()
        numbers |= {f"{head}/R@{k}": direction_ranks.recall(k) for k in ks}
        numbers[f"{head}/strict_R@{ks[0]}"] = direction_ranks.recall(ks[0], Ties.PESSIMISTIC)
        numbers[f"{head}/mean_rank"] = best.mean().item() + 1
        numbers[f"{head}/median_rank"] = float(math.floor(best.quantile(0.5).item()) + 1)
        numbers[f"{head}/chance"] = chance
        numbers[f"{head}/ties"] = direction_ranks.tied()
        numbers[f"{head}/queries"] = float(len(best))
    return numbers


def _items(name: str, data: Embedded, ranks: BidirectionalRanks, ks: Sequence[int]) -> dict[str, Items]:
    """A table for each direction."""
    columns = {
        "text_to_image": {
            "image": [data.names[i] for i in data.owner.tolist()],
            "text": data.captions,
            "nearest": [data.names[i] for i in ranks.nearest_image.tolist()],
        },
        "image_to_text": {
            "image": data.names,
            "nearest": [data.captions[i] for i in ranks.nearest_text.tolist()],
        },
    }
    tables: dict[str, Items] = {}
    for direction, (optimistic, pessimistic) in ranks.by_direction().items():
        head = f"{name}/{direction}"
        rank_columns = {"rank": optimistic.tolist(), "tied": (optimistic != pessimistic).tolist()}
        hits = {f"R@{k}": (optimistic < k).tolist() for k in ks}
        means = {f"{head}/R@{k}": Mean(f"R@{k}") for k in ks}
        tables[head] = Items(columns[direction] | rank_columns | hits, means, "image")
    return tables
