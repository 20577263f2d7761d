"""Classify the annotated boxes of a data set: RoIAlign over the model's dense map against its own class vectors.

What data sets share; each has its reader in a file of its own. The published protocols differ in data, prompts, squash
and in what is averaged, so that their numbers must not be compared with each other:

* FG-CLIP (arXiv 2505.05071): OpenAI's 80 prompts, patches pooled as they are, accuracy over boxes.
* CLIPSelf (arXiv 2310.01403) and FineCLIP: ViLD's 63 prompts, patches normalised first, mean over the classes present.

Both averages are given for either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from eval.benchmark import Model, Result, Run
from eval.boxes import BoxAccuracy
from eval.fits import no_fit
from eval.gather import rank, world_size
from eval.pictures import Photograph, squares
from eval.prompts import class_vectors

Box = tuple[float, float, float, float]
SLACK = 1e-3  # pixels; COCO rounds its boxes to a hundredth


class LabelledBox(NamedTuple):
    """A box, x0, y0, x1, y1 in fractions of its picture, and the number of its class."""

    box: Box
    label: int


class BoxedPicture(NamedTuple):
    """A picture and what stands in it; ``key`` is unique over the data set."""

    key: str
    photograph: Photograph
    boxes: list[LabelledBox]


@dataclass
class BoxSet:
    """A data set of boxes: class names by number, pictures, the files read with their SHA-256, and how many boxes and
    pictures were left out or cut, by reason.
    """

    classes: tuple[str, ...]
    pictures: list[BoxedPicture]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class BoxProtocol:
    """How boxes are embedded and classes are named.

    Args:
        templates: prompts of a class.
        resize: PIL's filter for the squash.
        before_pooling: done to the patch tokens before RoIAlign.
        words: the protocol for the file of results.
    """

    templates: Callable[[], tuple[str, ...]]
    resize: Image.Resampling
    before_pooling: Callable[[Float[Tensor, "B P D"]], Float[Tensor, "B P D"]]
    words: str


def as_they_are(dense: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """Tokens unchanged: a patch weighs as much as it is long."""
    return dense


def all_alike(dense: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """Tokens of unit norm: all patches of a box weigh the same."""
    return functional.normalize(dense.float(), dim=-1)


def fraction_box(xywh: Box, photograph: Photograph, counts: Counter[str]) -> Box | None:
    """Pixels x, y, width, height to fractions x0, y0, x1, y1 inside the picture.

    A box that reaches beyond the picture is cut to it, and counted. Where nothing is left it is counted, and None.
    """
    x, y, width, height = xywh
    if not (width > 0 and height > 0):
        counts["box without area"] += 1
        return None
    x0, x1 = (min(max(v, 0.0), float(photograph.width)) for v in (x, x + width))
    y0, y1 = (min(max(v, 0.0), float(photograph.height)) for v in (y, y + height))
    if not (x0 < x1 and y0 < y1):
        counts["box outside its picture"] += 1
        return None
    if max(x0 - x, y0 - y, x + width - x1, y + height - y1) > SLACK:
        counts["box cut at its picture's border"] += 1
    return x0 / photograph.width, y0 / photograph.height, x1 / photograph.width, y1 / photograph.height


def classify(name: str, model: Model, run: Run, data: BoxSet, protocol: BoxProtocol) -> Result:
    """Embed every box of ``data`` and rank the classes for it; numbers as :class:`BoxAccuracy` gives them.

    Raises ValueError where no box is left, or a picture cannot be used.
    """
    no_fit(name, run.fit)
    pictures = [picture for picture in data.pictures if picture.boxes]
    if not pictures:
        raise ValueError(f"{name}: no box is left to classify; left out: {dict(data.counts)}")
    templates = protocol.templates()
    vectors = class_vectors(model.encode_text, data.classes, templates, run.track)
    accuracy = BoxAccuracy(name)
    parts = [pictures[i : i + run.batch_size] for i in range(0, len(pictures), run.batch_size)]
    for part in run.track(parts[rank() :: world_size()], name.replace("_", " ")):
        pixels = squares([picture.photograph for picture in part], model.image_size, protocol.resize)
        dense = protocol.before_pooling(model.encode_image(pixels).dense)
        device = dense.device
        boxes = torch.tensor([b.box for picture in part for b in picture.boxes], device=device)
        labels = torch.tensor([b.label for picture in part for b in picture.boxes], device=device)
        image = torch.tensor([row for row, picture in enumerate(part) for _ in picture.boxes], device=device)
        regions = model.pool_regions(dense, boxes, image)
        accuracy.update(regions, vectors.to(device), labels, image, [picture.key for picture in part])
    settings = {
        "protocol": protocol.words,
        "picture": f"squashed to {model.image_size}×{model.image_size}, {protocol.resize.name.lower()}",
        "prompts per class": len(templates),
        "classes": len(data.classes),
        "pictures": len(pictures),
        "files": data.files,
        "counts": dict(data.counts),
    }
    return Result(accuracy.compute(), settings, dict(data.counts))
