"""Zero-shot classification of whole images: class vectors from prompts, top-1 and top-5, mean over classes.

OpenAI's list calls two classes of ImageNet "missile" and two "sunglasses": their vectors are equal and tie. Published
code takes the first of the best, and so do we; the numbers state the share of ties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from eval.data.cache import digest
from eval.data.image_preprocessing import Fit, centre_crop, fit_setting
from eval.data.sources import ImageSource
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.ranking import rank_classes
from eval.metrics.similarity import check_index
from eval.protocols.embed import embed_classes, embed_images
from eval.results.compare import numbers_of
from eval.results.per_item import Items, Mean

KS = (1, 5)


@dataclass
class LabelledImages:
    """Images and their labels, the numbers of their classes; class names by number; files read, with their SHA-256."""

    images: list[ImageSource]
    labels: list[int]
    classes: Sequence[str]
    files: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def classify_images(
    name: str,
    model: Model,
    run: EvalContext,
    data: LabelledImages,
    templates: Sequence[str],
    protocol: str,
    fit: Fit = centre_crop,
) -> Result:
    """Embed, rank the classes, count; ``protocol`` describes the protocol in the results. Collective.

    Raises ValueError where there is no image, or a label is not the number of a class.
    """
    fit = run.fit or fit
    if not data.images:
        raise ValueError(f"{name}: no image is left; left out: {dict(data.counts)}")
    label = torch.tensor(data.labels)
    check_index(f"{name}: labels", label, len(data.classes))
    classes = embed_classes(model, run, data.classes, templates)
    ranks = rank_classes(name, embed_images(model, run, data.images, fit, name), classes, label)
    rank, tied = ranks.better + ranks.before, ranks.equal > 0
    ks = [k for k in KS if k < len(data.classes)] or [1]
    settings: dict[str, Any] = {
        "protocol": protocol,
        "image": fit_setting(fit, model.image_size),
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
        "chosen": [names[n] for n in ranks.chosen.tolist()],
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
