"""Classify the annotated boxes of a data set: RoIAlign over the model's dense map against the model's class vectors.

Each benchmark has a file with its reader. The published protocols differ in data, prompts, fit and in the average, so
their numbers must not be compared with each other:

* FG-CLIP (arXiv 2505.05071): OpenAI's 80 prompts, squash, patches pooled as they are, accuracy over boxes.
* FineCLIP: ViLD's 63 prompts, bilinear squash, patches normalised first, mean over the classes present.
* CLIPSelf (arXiv 2310.01403): as FineCLIP on a larger image, things and stuff apart; ``benchmarks.clipself_boxes``.

Both averages are computed for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.data.image_preprocessing import Fit, fit_setting, no_fit
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.metrics.boxes import KS, box_numbers
from eval.metrics.ranking import Ranks, rank_classes
from eval.protocols.embed import embed_classes
from eval.protocols.regions import Box, Boxes, Prepare, embed_regions
from eval.results.per_item import Items, Mean

SLACK = 1e-3  # pixels; COCO rounds its boxes to a hundredth


class LabelledBox(NamedTuple):
    """A box, x0, y0, x1, y1 in fractions of its image, and the number of its class."""

    box: Box
    label: int


class BoxedImage(NamedTuple):
    """An image of known size and its labelled boxes."""

    image: ImageFile
    boxes: list[LabelledBox]


@dataclass
class BoxSet:
    """A data set of boxes: class names by number, images, the files read with their SHA-256, and counts of the boxes
    and images that were left out or cut, by reason.
    """

    classes: tuple[str, ...]
    images: list[BoxedImage]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class BoxProtocol:
    """A way to embed boxes and classes.

    Args:
        templates: prompts of a class.
        fit: how images become squares.
        prepare: applied to the patch tokens before RoIAlign.
        description: names the protocol in the results.
    """

    templates: Callable[[], tuple[str, ...]]
    fit: Fit
    prepare: Prepare
    description: str


class LabelledRegions(NamedTuple):
    """For each region its image's name, its box and the number of its class; and the class names by number."""

    images: Sequence[str]
    boxes: Sequence[Box]
    label: Int[Tensor, " R"]
    classes: Sequence[str]


def fraction_box(xywh: Box, size: tuple[int, int], counts: Counter[str]) -> Box | None:
    """Pixels x, y, width, height to fractions x0, y0, x1, y1 of the image, whose width and height are ``size``.

    A box that reaches beyond the image is cut to it, and counted. Returns None, and counts, where nothing is left.
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
    images = [image.image for image in boxed]
    boxes = Boxes([[b.box for b in p.boxes] for p in boxed], images, protocol.fit, protocol.prepare)
    rows = embed_regions(model, run, images, protocol.fit, boxes, name)
    regions = LabelledRegions(
        [p.image.name for p in boxed for _ in p.boxes],
        [b.box for p in boxed for b in p.boxes],
        torch.tensor([b.label for p in boxed for b in p.boxes]),
        data.classes,
    )
    settings = {
        "protocol": protocol.description,
        "image": fit_setting(protocol.fit, model.image_size),
        "prompts per class": len(templates),
        "classes": len(data.classes),
        "images": len(boxed),
        "files": data.files,
        "counts": dict(data.counts),
    }
    numbers, items = grade(name, rows, classes, regions)
    return Result(numbers, settings, dict(data.counts), {name: items})


def grade(
    name: str, rows: Float[Tensor, "R D"], classes: Float[Tensor, "C D"], regions: LabelledRegions
) -> tuple[dict[str, float], Items]:
    """The numbers of ``box_numbers`` and a row per region; a tie does not count against the right class."""
    class_ranks = rank_classes(name, rows, classes, regions.label)
    ranks = Ranks(class_ranks.better, class_ranks.better + class_ranks.equal)
    columns: dict[str, list[Any]] = {
        "image": list(regions.images),
        **{side: [box[n] for box in regions.boxes] for n, side in enumerate(("x0", "y0", "x1", "y1"))},
        "label": regions.label.tolist(),
        "class": [regions.classes[n] for n in regions.label.tolist()],
        "chosen": [regions.classes[n] for n in class_ranks.chosen.tolist()],
        "rank": ranks.optimistic.tolist(),
        "tied": (class_ranks.equal > 0).tolist(),
        **{f"top{k}": ranks.hits(k).tolist() for k in KS},
    }
    means = {f"{name}/top{k}": Mean(f"top{k}") for k in KS}
    means |= {f"{name}/class_mean_top{k}": Mean(f"top{k}", group="label") for k in KS}
    return box_numbers(name, ranks, regions.label), Items(columns, means, "image")
