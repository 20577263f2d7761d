"""Zero-shot classification of whole images: class vectors from prompts, top-1 and top-5, mean over classes.

Two classes of ImageNet are called "missile" and two "sunglasses" in OpenAI's list: their vectors are equal and tie.
Published code takes the first of the best, and so do we; the share of ties is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from eval.data.cache import digest
from eval.data.image_preprocessing import Fit, centre_crop
from eval.data.sources import Source
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.class_ranks import rank_classes
from eval.protocols.embed import embed_classes, embed_images
from eval.results.compare import numbers_of
from eval.results.per_item import Items, Mean

KS = (1, 5)


@dataclass
class Labelled:
    """Images and the number of each one's class; class names by number; the files read with their SHA-256."""

    images: list[Source]
    labels: list[int]
    classes: Sequence[str]
    files: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def classify_images(
    name: str,
    model: Model,
    run: EvalContext,
    data: Labelled,
    templates: Sequence[str],
    words: str,
    fit: Fit = centre_crop,
) -> Result:
    """Embed, rank the classes, count; ``words`` tell the protocol. Collective.

    Raises ValueError where there is no image, or a label is the number of no class.
    """
    fit = run.fit or fit
    if not data.images:
        raise ValueError(f"{name}: no image is left; left out: {dict(data.counts)}")
    if wrong := [label for label in data.labels if not 0 <= label < len(data.classes)]:
        raise ValueError(f"{name}: labels must lie in [0, {len(data.classes)}), got {wrong[0]}")
    label = torch.tensor(data.labels)
    classes = embed_classes(model, run, data.classes, templates)
    found = rank_classes(name, embed_images(model, run, data.images, fit, name), classes, label)
    rank, tied = found.better + found.before, found.equal > 0
    ks = [k for k in KS if k < len(data.classes)] or [1]
    settings: dict[str, Any] = {
        "protocol": words,
        "image": f"{fit.__name__}, {model.image_size}×{model.image_size}",
        "prompts per class": len(templates),
        "prompts sha256": digest(templates),
        "classes": len(data.classes),
        "classes present": len(label.unique()),
        "class names sha256": digest(data.classes),
        "split sha256": digest(f"{i.name} {n}" for i, n in zip(data.images, data.labels, strict=True)),
        "files": data.files,
        "counts": dict(data.counts),
    }
    names = list(data.classes)
    columns = {
        "image": [image.name for image in data.images],
        "label": data.labels,
        "class": [names[n] for n in data.labels],
        "chosen": [names[n] for n in found.chosen.tolist()],
        "rank": rank.tolist(),
        "tied": tied.tolist(),
        **{f"top{k}": (rank < k).tolist() for k in ks},
    }
    means: dict[str, Mean] = {}
    for k in ks:
        means |= {f"{name}/top{k}": Mean(f"top{k}"), f"{name}/class_mean_top{k}": Mean(f"top{k}", group="label")}
    table = Items(columns, means, "image")
    numbers = numbers_of(table) | {f"{name}/ties": tied.double().mean().item(), f"{name}/images": float(len(label))}
    return Result(numbers, settings, dict(data.counts), {name: table})
