"""``coco_panoptic_clipself``: COCO val2017's panoptic segments, things and stuff apart, classified as CLIPSelf does it
(Wu et al., ICLR 2024, arXiv 2310.01403). ``protocols.panoptic_files`` says which segments count.

A segment is embedded in three ways, by patches of unit norm from a large image (the longer side 64 patches: 1024
pixels for B/16, 896 for L/14; black at the right or the bottom), or by a crop:

* ``rois``: RoIAlign 1×1 over its box;
* ``masks``: the mean over the patches that its mask shows on, the mask being resized to the grid (bicubic, above 0);
* ``crops``: the image embedding of its box, a thing's made half as large again; the longer side fitted, black around.

Published numbers are the means over classes (mAcc). Where we differ: class vectors come from the model under test, and
the mean of a class is not rounded to half precision. A mask that shows on no patch is pooled by its box, and counted;
the published code compares a vector of zeros there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from eval.data.cache import digest
from eval.data.image_preprocessing import fitted, letterbox, longest, no_fit
from eval.data.sources import Crop
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.box_classification import Named, grade
from eval.protocols.embed import embed_classes, embed_images
from eval.protocols.panoptic_files import Mask, Segment, SegmentedImage, read_panoptic
from eval.protocols.prompts import VILD_TEMPLATES
from eval.protocols.regions import Boxes, all_alike, embed_regions

NAME = "coco_panoptic_clipself"
GRID = 64  # patches a side
WIDER = 1.5  # of a thing's box, to cut it out


def coco_panoptic_clipself(model: Model, run: EvalContext) -> Result:
    """COCO val2017's panoptic segments, 133 classes, in three ways."""
    no_fit(NAME, run.fit)
    data = read_panoptic(run, patches_of)
    images = [image for image in data.images if image.segments]
    if not images:
        raise ValueError(f"{NAME}: no segment is left to classify; left out: {dict(data.counts)}")
    segments = [segment for image in images for segment in image.segments]
    if unseen := sum(not any(segment.kept) for segment in segments):
        data.counts["segment that shows on no patch, its box pooled"] += unseen
    classes = embed_classes(model, run, data.classes, VILD_TEMPLATES)
    larger, pooling = model.with_grid(GRID), BoxesAndMasks(images)
    pooled = embed_regions(larger, run, [p.image for p in images], longest, pooling, NAME).unflatten(0, (-1, 2))
    crops = embed_images(model, run, [cut_out(p, s) for p in images for s in p.segments], letterbox, f"{NAME}: crops")
    names, numbers, tables = [p.image.name for p in images for _ in p.segments], {}, {}
    for way, rows in (("rois", pooled[:, 0]), ("masks", pooled[:, 1]), ("crops", crops)):
        for kind, thing in (("thing", True), ("stuff", False)):
            own = [n for n, segment in enumerate(segments) if segment.thing is thing]
            if own:
                asked = Named(
                    [names[n] for n in own],
                    [segments[n].box for n in own],
                    torch.tensor([segments[n].label for n in own]),
                    data.classes,
                )
                head = f"{NAME}/{way}/{kind}"
                found, tables[head] = grade(head, rows[own], classes, asked)
                numbers |= found
    settings: dict[str, Any] = {
        "protocol": "CLIPSelf: things and stuff apart, ViLD's prompts by the model's own text tower, patches of unit "
        "norm; published numbers are class_mean_top1 and class_mean_top5 (mAcc)",
        "image": f"{longest.__name__}, {larger.image_size}×{larger.image_size}",
        "crop": f"{letterbox.__name__}, {model.image_size}×{model.image_size}",
        "prompts per class": len(VILD_TEMPLATES),
        "classes": len(data.classes),
        "images": len(images),
        "files": data.files,
        "counts": dict(data.counts),
    }
    return Result(numbers, settings, dict(data.counts), tables)


class BoxesAndMasks:
    """Two vectors a segment: over its box, and over its mask."""

    def __init__(self, images: Sequence[SegmentedImage]) -> None:
        boxes = [[segment.box for segment in image.segments] for image in images]
        self.boxes = Boxes(boxes, [image.image for image in images], longest, all_alike)
        self.counts = [2 * count for count in self.boxes.counts]
        self.masks = [[segment.kept for segment in image.segments] for image in images]

    def stamp(self) -> str:
        """Changes with the boxes and masks."""
        return digest([self.boxes.stamp(), *(mask.hex() for own in self.masks for mask in own)])

    def __call__(
        self, model: Model, dense: Float[Tensor, "B P D"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the images' segments: of each its box, then its mask; the box where the mask is empty.

        Raises ValueError where an image's segment map was drawn on pixels that are stored turned.
        """
        for number, turn in zip(images, turns, strict=True):
            if turn != 1:
                file = self.boxes.images[number].file
                raise ValueError(
                    f"{file} is stored turned (EXIF orientation {turn}) and its segment map is not upright"
                )
        rois = self.boxes(model, dense, images, turns)
        means = [
            unpacked(self.masks[n]).to(dense.device) @ own for n, own in zip(images, all_alike(dense), strict=True)
        ]
        sums = torch.cat(means)
        seen = sums.norm(dim=1, keepdim=True) > 0
        return torch.stack([rois, torch.where(seen, functional.normalize(sums, dim=1), rois)], dim=1).flatten(0, 1)


def patches_of(mask: Mask) -> bytes:
    """The patches that an image's mask shows on, a bit each, row by row."""
    height, width = mask.shape
    across, down = fitted((width, height), GRID)
    small = functional.interpolate(torch.from_numpy(mask)[None, None].float(), (down, across), mode="bicubic")
    grid = np.zeros((GRID, GRID), dtype=bool)
    grid[:down, :across] = (small[0, 0] > 0).numpy()
    return np.packbits(grid).tobytes()


def unpacked(masks: Sequence[bytes]) -> Float[Tensor, "R P"]:
    """Masks of an image: 1 where a patch is shown on, else 0."""
    bits = np.unpackbits(np.frombuffer(b"".join(masks), dtype=np.uint8))
    return torch.from_numpy(bits).view(len(masks), GRID * GRID).float()


def cut_out(image: SegmentedImage, segment: Segment) -> Crop:
    """A segment's part of its image, in whole pixels."""
    assert image.image.size is not None  # the annotation tells it
    x, y, width, height = segment.xywh
    more = (WIDER - 1) / 2 if segment.thing else 0.0
    x0, y0 = max(x - more * width, 0), max(y - more * height, 0)
    x1 = min(x + (1 + more) * width, image.image.size[0])
    y1 = min(y + (1 + more) * height, image.image.size[1])
    left, top = round(x0), round(y0)
    return Crop(image.image, (left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
