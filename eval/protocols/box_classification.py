"""Classify the annotated boxes of a data set: RoIAlign over the model's dense map against its own class vectors.

Each data set has its reader in a file of its own. The published protocols differ in data, prompts, fit and
in what is averaged, so that their numbers must not be compared with each other:

* FG-CLIP (arXiv 2505.05071): OpenAI's 80 prompts, squash, patches pooled as they are, accuracy over boxes.
* FineCLIP: ViLD's 63 prompts, bilinear squash, patches normalised first, mean over the classes present.
* CLIPSelf (arXiv 2310.01403): as FineCLIP on a larger image, things and stuff apart; ``benchmarks.clipself_boxes``.

Both averages are given for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.data.image_preprocessing import Fit, no_fit
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.boxes import KS, box_numbers
from eval.metrics.class_ranks import rank_classes
from eval.metrics.ranking import Ranks
from eval.protocols.embed import embed_classes
from eval.protocols.regions import Box, Boxes, Prepare, embed_regions
from eval.results.per_item import Items, Mean

SLACK = 1e-3  # pixels; COCO rounds its boxes to a hundredth


class LabelledBox(NamedTuple):
    """A box, x0, y0, x1, y1 in fractions of its image, and the number of its class."""

    box: Box
    label: int


class BoxedImage(NamedTuple):
    """An image of known size and what stands in it."""

    image: ImageFile
    boxes: list[LabelledBox]


@dataclass
class BoxSet:
    """A data set of boxes: class names by number, images, the files read with their SHA-256, and how many boxes and
    images were left out or cut, by reason.
    """

    classes: tuple[str, ...]
    images: list[BoxedImage]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class BoxProtocol:
    """The embedding of boxes and the naming of classes.

    Args:
        templates: prompts of a class.
        fit: how images become squares.
        prepare: what is done to the patch tokens before RoIAlign.
        words: the protocol for the file of results.
    """

    templates: Callable[[], tuple[str, ...]]
    fit: Fit
    prepare: Prepare
    words: str


class Named(NamedTuple):
    """The questions: of each region its image's name, its box and the number of its class; and the class names."""

    images: Sequence[str]
    boxes: Sequence[Box]
    label: Int[Tensor, " R"]
    classes: Sequence[str]


def fraction_box(xywh: Box, size: tuple[int, int], counts: Counter[str]) -> Box | None:
    """Pixels x, y, width, height to fractions x0, y0, x1, y1 inside the image, whose width and height are ``size``.

    A box that reaches beyond the image is cut to it, and counted. Where nothing is left it is counted, and None.
    """
    x, y, width, height = xywh
    if not (width > 0 and height > 0):
        counts["box without area"] += 1
        return None
    x0, x1 = (min(max(v, 0.0), float(size[0])) for v in (x, x + width))
    y0, y1 = (min(max(v, 0.0), float(size[1])) for v in (y, y + height))
    if not (x0 < x1 and y0 < y1):
        counts["box outside its image"] += 1
        return None
    if max(x0 - x, y0 - y, x + width - x1, y + height - y1) > SLACK:
        counts["box cut at its image's border"] += 1
    return x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]


def classify(name: str, model: Model, run: EvalContext, data: BoxSet, protocol: BoxProtocol) -> Result:
    """Embed every box of ``data`` and rank the classes for it; numbers as :class:`BoxAccuracy` gives them. Collective.

    Raises ValueError where no box is left, or an image cannot be used.
    """
    no_fit(name, run.fit)
    boxed = [image for image in data.images if image.boxes]
    if not boxed:
        raise ValueError(f"{name}: no box is left to classify; left out: {dict(data.counts)}")
    templates = protocol.templates()
    classes = embed_classes(model, run, data.classes, templates)
    images = [one.image for one in boxed]
    boxes = Boxes([[b.box for b in p.boxes] for p in boxed], images, protocol.fit, protocol.prepare)
    rows = embed_regions(model, run, images, protocol.fit, boxes, name)
    named = Named(
        [p.image.name for p in boxed for _ in p.boxes],
        [b.box for p in boxed for b in p.boxes],
        torch.tensor([b.label for p in boxed for b in p.boxes]),
        data.classes,
    )
    settings = {
        "protocol": protocol.words,
        "image": f"{protocol.fit.__name__}, {model.image_size}×{model.image_size}",
        "prompts per class": len(templates),
        "classes": len(data.classes),
        "images": len(boxed),
        "files": data.files,
        "counts": dict(data.counts),
    }
    numbers, items = grade(name, rows, classes, named)
    return Result(numbers, settings, dict(data.counts), {name: items})


def grade(
    name: str, rows: Float[Tensor, "R D"], classes: Float[Tensor, "C D"], asked: Named
) -> tuple[dict[str, float], Items]:
    """Numbers and single results of regions; a tie does not count against the right class."""
    found = rank_classes(name, rows, classes, asked.label)
    ranks = Ranks(found.better, found.better + found.equal)
    columns: dict[str, list[Any]] = {
        "image": list(asked.images),
        **{side: [box[n] for box in asked.boxes] for n, side in enumerate(("x0", "y0", "x1", "y1"))},
        "label": asked.label.tolist(),
        "class": [asked.classes[n] for n in asked.label.tolist()],
        "chosen": [asked.classes[n] for n in found.chosen.tolist()],
        "rank": ranks.optimistic.tolist(),
        "tied": (found.equal > 0).tolist(),
        **{f"top{k}": ranks.hits(k).tolist() for k in KS},
    }
    means = {f"{name}/top{k}": Mean(f"top{k}") for k in KS}
    means |= {f"{name}/class_mean_top{k}": Mean(f"top{k}", group="label") for k in KS}
    return box_numbers(name, ranks, asked.label), Items(columns, means, "image")
