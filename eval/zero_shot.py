"""Zero-shot classification of whole pictures: class vectors from prompts, top-1 and top-5, mean over classes.

Two classes of ImageNet are called "missile" and two "sunglasses" in OpenAI's list: their vectors are equal and tie.
Published code takes the first of the best, and so do we; the share of ties is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.benchmark import Model, Result, Run
from eval.cache import digest
from eval.embed import embed_images
from eval.fits import Fit, centre_crop
from eval.items import Items
from eval.prompts import class_vectors
from eval.similarity import exact_fp32, unit_rows
from eval.sources import Source

KS = (1, 5)
SLICE = 1024  # pictures


@dataclass
class Labelled:
    """Pictures and the number of each one's class; class names by number; the files read with their SHA-256."""

    images: list[Source]
    labels: list[int]
    classes: Sequence[str]
    files: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def classify_images(
    name: str, model: Model, run: Run, data: Labelled, templates: Sequence[str], words: str, fit: Fit = centre_crop
) -> Result:
    """Embed, rank the classes, count; ``words`` tell the protocol. Collective.

    Raises ValueError where there is no picture, or a label is the number of no class.
    """
    fit = run.fit or fit
    if not data.images:
        raise ValueError(f"{name}: no picture is left; left out: {dict(data.counts)}")
    if wrong := [label for label in data.labels if not 0 <= label < len(data.classes)]:
        raise ValueError(f"{name}: labels must lie in [0, {len(data.classes)}), got {wrong[0]}")
    vectors = class_vectors(model.encode_text, data.classes, templates, run.track)
    classes = unit_rows(f"{name}: class vectors", vectors).cpu()
    images = embed_images(model, run, data.images, fit, name)
    label = torch.tensor(data.labels)
    rank, tied, first = _ranks(images, classes, label)
    present_, place, count = label.unique(return_inverse=True, return_counts=True)
    numbers: dict[str, float] = {}
    ks = [k for k in KS if k < len(data.classes)] or [1]
    for k in ks:
        hits = rank < k
        numbers[f"{name}/top{k}"] = hits.double().mean().item()
        of_class = torch.zeros_like(count).scatter_add(0, place, hits.long())
        numbers[f"{name}/class_mean_top{k}"] = (of_class.double() / count).mean().item()
    numbers |= {f"{name}/ties": tied.double().mean().item(), f"{name}/pictures": float(len(label))}
    settings: dict[str, Any] = {
        "protocol": words,
        "picture": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "prompts per class": len(templates),
        "prompts sha256": digest(templates),
        "classes": len(data.classes),
        "classes present": len(present_),
        "class names sha256": digest(data.classes),
        "split sha256": digest(f"{i.name} {n}" for i, n in zip(data.images, data.labels, strict=True)),
        "files": data.files,
        "counts": dict(data.counts),
    }
    names = list(data.classes)
    columns = {
        "image": [image.name for image in data.images],
        "class": [names[n] for n in data.labels],
        "chosen": [names[n] for n in first.tolist()],
        "rank": rank.tolist(),
        "tied": tied.tolist(),
        **{f"top{k}": (rank < k).tolist() for k in ks},
    }
    table = Items(columns, {f"{name}/top{k}": f"top{k}" for k in ks}, "image")
    return Result(numbers, settings, dict(data.counts), {name: table})


def _ranks(
    images: Float[Tensor, "N D"], classes: Float[Tensor, "C D"], label: Int[Tensor, " N"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Rank of the right class, equal ones in their order; whether others score as much; and the first of the best.

    Equal classes are multiplied once: their scores are the same bits.
    """
    distinct, copy = classes.unique(dim=0, return_inverse=True)
    rank, tied, first = [], [], []
    order = torch.arange(len(classes))
    with exact_fp32(images.device):
        for part, own in zip(images.split(SLICE), label.split(SLICE), strict=True):
            scores = (part @ distinct.T)[:, copy]
            right = scores.gather(1, own[:, None])
            same = scores == right
            rank.append((scores > right).sum(1) + (same & (order < own[:, None])).sum(1))
            tied.append(same.sum(1) > 1)
            first.append(scores.argmax(1))
    return torch.cat(rank), torch.cat(tied), torch.cat(first)
