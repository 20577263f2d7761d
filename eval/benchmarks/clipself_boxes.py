"""``coco_panoptic_clipself``: COCO val2017's panoptic segments, things and stuff apart, classified as CLIPSelf does it
(Wu et al., ICLR 2024, arXiv 2310.01403). ``protocols.panoptic_files`` says which segments count.

A segment is embedded in three ways: twice by patches of unit norm from a large image (the longer side 64 patches: 1024
pixels for B/16, 896 for L/14; padded with black at the right or the bottom), and once by a crop:

* ``rois``: RoIAlign 1×1 over its box;
* ``masks``: the mean over the patches of its mask, which is resized to the grid (bicubic, above 0);
* ``crops``: the image embedding of its box, for a thing enlarged by half; the longer side fitted, centred on black.

Published numbers are the means over classes (mAcc). Where we differ: class vectors come from the model under test, and
the mean of a class is not rounded to half precision. A mask without a patch is replaced by its box, and counted; the
published code compares a vector of zeros there.
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
from eval.data.image_preprocessing import fit_setting, fitted, letterbox, longest, no_fit
from eval.data.sources import Crop
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.box_classification import LabelledRegions, grade
from eval.protocols.embed import embed_classes, embed_images
from eval.protocols.panoptic_files import Mask, Segment, SegmentedImage, read_panoptic
from eval.protocols.prompts import VILD_TEMPLATES
from eval.protocols.regions import Boxes, embed_regions, unit_patches

NAME = "coco_panoptic_clipself"
GRID = 64  # patches a side
ENLARGED = 1.5  # a thing's box, for its crop


def coco_panoptic_clipself(model: Model, run: EvalContext) -> Result:
    """COCO val2017's panoptic segments, 133 classes, embedded in three ways."""
    no_fit(NAME, run.fit)
    data = read_panoptic(run, patches_of)
    images = [image for image in data.images if image.segments]
    if not images:
        raise ValueError(f"{NAME}: no segment is left to classify; left out: {dict(data.counts)}")
    segments = [segment for image in images for segment in image.segments]
    if empty := sum(not any(segment.mask) for segment in segments):
        data.counts["segment that shows on no patch, its box pooled"] += empty
    classes = embed_classes(model, run, data.classes, VILD_TEMPLATES)
    larger, pooling = model.with_grid(GRID), BoxesAndMasks(images)
    pooled = embed_regions(larger, run, [p.image for p in images], longest, pooling, NAME).unflatten(0, (-1, 2))
    crops = embed_images(
        model, run, [segment_crop(p, s) for p in images for s in p.segments], letterbox, f"{NAME}: crops"
    )
    names, numbers, tables = [p.image.name for p in images for _ in p.segments], {}, {}
    for method, rows in (("rois", pooled[:, 0]), ("masks", pooled[:, 1]), ("crops", crops)):
        for kind, thing in (("thing", True), ("stuff", False)):
            chosen = [n for n, segment in enumerate(segments) if segment.thing is thing]
            if chosen:
                regions = LabelledRegions(
                    [names[n] for n in chosen],
                    [segments[n].box for n in chosen],
                    torch.tensor([segments[n].label for n in chosen]),
                    data.classes,
                )
                head = f"{NAME}/{method}/{kind}"
                kind_numbers, tables[head] = grade(head, rows[chosen], classes, regions)
                numbers |= kind_numbers
    settings: dict[str, Any] = {
        "protocol": "CLIPSelf: things and stuff apart, ViLD's prompts by the model's own text tower, patches of unit "
        "norm; published numbers are class_mean_top1 and class_mean_top5 (mAcc)",
        "image": fit_setting(longest, larger.image_size),
        "crop": fit_setting(letterbox, model.image_size),
        "prompts per class": len(VILD_TEMPLATES),
        "classes": len(data.classes),
        "images": len(images),
        "files": data.files,
        "counts": dict(data.counts),
    }
    return Result(numbers, settings, dict(data.counts), tables)


class BoxesAndMasks:
    """Two vectors for each segment: pooled over its box, and over its mask."""

    def __init__(self, images: Sequence[SegmentedImage]) -> None:
        boxes = [[segment.box for segment in image.segments] for image in images]
        self.boxes = Boxes(boxes, [image.image for image in images], longest, unit_patches)
        self.counts = [2 * count for count in self.boxes.counts]
        self.masks = [[segment.mask for segment in image.segments] for image in images]

    def stamp(self) -> str:
        """Changes with the boxes and masks."""
        return digest([self.boxes.stamp(), *(mask.hex() for masks in self.masks for mask in masks)])

    def __call__(
        self, model: Model, dense: Float[Tensor, "B D h w"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the images' segments: for each its box, then its mask, or again the box where the mask is
        empty.

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
            unpack(self.masks[n]).to(dense.device) @ patches
            for n, patches in zip(images, unit_patches(dense).flatten(2).mT, strict=True)
        ]
        sums = torch.cat(means)
        has_patch = sums.norm(dim=1, keepdim=True) > 0
        return torch.stack([rois, torch.where(has_patch, functional.normalize(sums, dim=1), rois)], dim=1).flatten(0, 1)


def patches_of(mask: Mask) -> bytes:
    """The patches of a mask as packed bits, row by row."""
    height, width = mask.shape
    across, down = fitted((width, height), GRID)
    small = functional.interpolate(torch.from_numpy(mask)[None, None].float(), (down, across), mode="bicubic")
    grid = np.zeros((GRID, GRID), dtype=bool)
    grid[:down, :across] = (small[0, 0] > 0).numpy()
    return np.packbits(grid).tobytes()


def unpack(masks: Sequence[bytes]) -> Float[Tensor, "R P"]:
    """The masks of an image's segments: 1 for the mask's patches, else 0."""
    bits = np.unpackbits(np.frombuffer(b"".join(masks), dtype=np.uint8))
    return torch.from_numpy(bits).view(len(masks), GRID * GRID).float()


def segment_crop(image: SegmentedImage, segment: Segment) -> Crop:
    """The crop of a segment, in whole pixels."""
    assert image.image.size is not None  # from the annotation
    x, y, width, height = segment.xywh
    margin = (ENLARGED - 1) / 2 if segment.thing else 0.0
    x0, y0 = max(x - margin * width, 0), max(y - margin * height, 0)
    x1 = min(x + (1 + margin) * width, image.image.size[0])
    y1 = min(y + (1 + margin) * height, image.image.size[1])
    left, top = round(x0), round(y0)
    return Crop(image.image, (left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
