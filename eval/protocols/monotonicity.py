"""Monotonicity: does a text that says more of an image score higher with it?

A caption gives texts of growing length, s_1, ..., s_n; each holds the one before. HiMo@K (HiMo-CLIP, arXiv 2511.06653)
is the Pearson correlation of 1, ..., K with the cosines of the image and s_1, ..., s_K, 0 where these are all equal,
and the mean over captions; 1 is a line that rises, -1 one that falls. The published data have one caption an image, and
the published code takes all its texts. For a given K we take the first K texts of the captions that have as many, which
is our definition, as are the shares of steps that rise and of captions whose every step rises, and what follows.

Retrieval as captions grow (our definition): R@1 with the first text of each caption, with the second, and so on, up to
the median number of texts, among the captions that have as many. There a text must also tell its image from the others.
An image stands in the gallery once, and any of its captions' texts is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.data.caption_preprocessing import raw
from eval.data.image_preprocessing import centre_crop
from eval.data.sources import ImageSource
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.bidirectional_ranking import rank_bidirectional
from eval.metrics.similarity import exact_fp32
from eval.protocols.embed import embed_images, embed_texts
from eval.protocols.image_text_retrieval import embedding_settings, text_counts
from eval.results.per_item import Items, Mean

LEVELS = (2, 3, 4, 5)  # K, beside that of all texts of an image
FEWEST = 2  # texts of an image


class GrowingTexts(NamedTuple):
    """Images, each once; captions, each as its texts from the shortest to the longest, and the image of each; the files
    read; counts of what was left out.
    """

    images: list[ImageSource]
    texts: list[list[str]]
    owner: list[int]  # of each caption
    files: dict[str, str]
    counts: dict[str, int]


class Monotonicity(NamedTuple):
    """Of the texts of each caption."""

    correlation: Float[Tensor, " N"]
    rising: Float[Tensor, " N"]  # share of its steps from a text to the next that raise the cosine
    monotone: Float[Tensor, " N"]  # 1 where all of them do


def monotonicity(cosines: Sequence[Float[Tensor, " _"]]) -> Monotonicity:
    """HiMo@K and its like for each caption, from the cosines of its image and its K texts in the order of their length,
    in float64.

    Raises ValueError where a caption has fewer than two texts.
    """
    columns: list[tuple[float, float, float]] = []
    for values in cosines:
        if len(values) < FEWEST:
            raise ValueError(f"a caption must have at least {FEWEST} texts, got {len(values)}")
        scores = values.double()
        rises = (scores.diff() > 0).double()
        columns.append((_pearson(scores), float(rises.mean()), float(rises.min())))
    return Monotonicity(*torch.tensor(columns, dtype=torch.float64).reshape(-1, 3).T)


def _pearson(scores: Float[Tensor, " K"]) -> float:
    """The correlation of ``scores`` with their number; 0 where all are equal."""
    if bool((scores == scores[0]).all()):
        return 0.0
    number = torch.arange(len(scores), dtype=scores.dtype)
    a, b = number - number.mean(), scores - scores.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def measure_monotonicity(name: str, model: Model, run: EvalContext, data: GrowingTexts, protocol: str) -> Result:
    """Embed all texts and measure both. Collective.

    Raises ValueError where no caption has two texts.
    """
    wording, fit = run.wording or raw, run.fit or centre_crop
    if not data.images:
        raise ValueError(f"{name} needs a caption with at least {FEWEST} texts that grow; left out: {data.counts}")
    texts = [wording(text) for group in data.texts for text in group]
    settings = embedding_settings(model, protocol, fit, wording, len(data.images), len(texts)) | {
        "files": data.files,
        "counts": data.counts | dict(text_counts(model, texts)),
    }
    images = embed_images(model, run, data.images, fit, name)
    vectors = embed_texts(model, run, texts, name)
    sizes = [len(group) for group in data.texts]
    owner = torch.tensor(data.owner)
    with exact_fp32(images.device):
        cosines = (images[owner.repeat_interleave(torch.tensor(sizes))] * vectors).sum(1).split(sizes)
    numbers: dict[str, float] = {}
    tables: dict[str, Items] = {}
    names = [data.images[n].name for n in data.owner]  # of each caption's image
    depths = {f"at_{k}": k for k in LEVELS if k <= max(sizes)} | {"all": FEWEST}
    for part, k in depths.items():
        chosen = [n for n, size in enumerate(sizes) if size >= k]
        head, texts_of = f"{name}/{part}", slice(None) if part == "all" else slice(k)
        values = monotonicity([cosines[n][texts_of] for n in chosen])
        columns: dict[str, list[Any]] = {"image": [names[n] for n in chosen]}
        numbers |= _means(head, values, len(set(columns["image"])))
        columns |= {column: column_values.tolist() for column, column_values in values._asdict().items()}
        tables[head] = Items(columns, {f"{head}/{column}": Mean(column) for column in values._fields}, "image")
    more_numbers, more_tables = _retrieval(name, names, images, vectors, sizes, owner)
    return Result(numbers | more_numbers, settings, settings["counts"], tables | more_tables)


def _means(head: str, values: Monotonicity, images: int) -> dict[str, float]:
    means = {f"{head}/{column}": float(part.mean()) for column, part in values._asdict().items()}
    return means | {f"{head}/images": float(images)}


def _retrieval(
    name: str,
    names: Sequence[str],
    images: Float[Tensor, "N D"],
    texts: Float[Tensor, "M D"],
    sizes: Sequence[int],
    owner: Int[Tensor, " C"],
) -> tuple[dict[str, float], dict[str, Items]]:
    """R@1 both ways with each caption's first text, its second, ..., up to the median number of texts, among the
    captions that have as many and their images. ``names`` and ``owner`` are of the image of each caption.
    """
    depth = sorted(sizes)[len(sizes) // 2]
    first: Int[Tensor, " C"] = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    chosen = torch.tensor([n for n, size in enumerate(sizes) if size >= depth])
    gallery, image = owner[chosen].unique(return_inverse=True)
    name_of = dict(zip(owner.tolist(), names, strict=True))
    rows = {
        "text_to_image": [names[n] for n in chosen.tolist()],
        "image_to_text": [name_of[n] for n in gallery.tolist()],
    }
    numbers: dict[str, float] = {}
    tables: dict[str, Items] = {}
    for k in range(depth):
        ranks = rank_bidirectional(images[gallery], texts[first[chosen] + k], image)
        for direction, both in ranks.by_direction().items():
            head = f"{name}/text_{k + 1}_of_{depth}/{direction}"
            numbers |= {
                f"{head}/R@1": both.recall(1),
                f"{head}/ties": both.tied(),
                f"{head}/images": float(len(gallery)),
            }
            columns = {"image": rows[direction], "R@1": both.hits(1).tolist()}
            tables[head] = Items(columns, {f"{head}/R@1": Mean("R@1")}, "image")
    return numbers, tables
