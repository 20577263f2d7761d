"""Vectors of image regions, pooled from the model's dense map: boxes by RoIAlign, or as a protocol's own pooling does.

Each image is embedded once, whatever the number of its regions. Published protocols differ in how they prepare the
patch tokens before pooling (``raw_patches``, ``unit_patches``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from datamodules.image_decoding import turn_box, turned_size
from eval.data.cache import digest
from eval.data.image_preprocessing import Fit, covered, fit_name
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model
from eval.protocols.embed import (
    as_pixels,
    batch_ranges,
    cached_rows,
    checked_rows,
    gather_batches,
    load_batches,
    patches_of,
)

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in fractions of the image
Prepare = Callable[[Float[Tensor, "B D h w"]], Float[Tensor, "B D h w"]]  # patch features, before they are pooled


def raw_patches(dense: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Features unchanged: a patch weighs as much as its norm."""
    return dense


def unit_patches(dense: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Features of unit norm: all patches of a region weigh the same."""
    return functional.normalize(dense.float(), dim=1)


class Pooling(Protocol):
    """Pools the dense maps of images into unit vectors, image by image."""

    @property
    def counts(self) -> Sequence[int]:
        """The number of vectors of each image, at least 1."""
        ...

    def stamp(self) -> str:
        """Changes with the regions."""
        ...

    def __call__(
        self, model: Model, dense: Float[Tensor, "B D h w"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """The vectors of ``images``, whose dense maps are ``dense``.

        ``turns`` are the orientations by which the annotations of ``images`` must be turned.
        """
        ...


class Boxes:
    """RoIAlign over boxes.

    Args:
        boxes: the boxes of each image.
        images: the images, of known size.
        fit: how they become squares.
        prepare: applied to the patch tokens before pooling.
    """

    def __init__(
        self, boxes: Sequence[Sequence[Box]], images: Sequence[ImageFile], fit: Fit, prepare: Prepare = raw_patches
    ) -> None:
        self.prepare, self.counts = prepare, [len(image_boxes) for image_boxes in boxes]
        self.fit, self.images, self.annotated = fit, images, boxes
        self.boxes = [self._placed(number, 1) for number in range(len(images))]

    def _placed(self, number: int, turn: int) -> Float[Tensor, "r 4"]:
        """An image's boxes in fractions of the square."""
        size = self.images[number].size
        assert size is not None  # boxes come with it
        boxes = torch.tensor([turn_box(box, turn) for box in self.annotated[number]])
        return boxes * torch.tensor(covered(self.fit, turned_size(size, turn))).repeat(2)

    def stamp(self) -> str:
        """Changes with the boxes and how they are pooled."""
        return digest([self.prepare.__name__, *(str(boxes.tolist()) for boxes in self.boxes)])

    def __call__(
        self, model: Model, dense: Float[Tensor, "B D h w"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the images' boxes, one image after the other."""
        placed = [self._placed(number, turn) for number, turn in zip(images, turns, strict=True)]
        boxes = torch.cat(placed).to(dense.device)
        image = torch.tensor([row for row, number in enumerate(images) for _ in range(self.counts[number])])
        return model.pool_regions(self.prepare(dense), boxes, image.to(dense.device))


def embed_regions(
    model: Model, run: EvalContext, images: Sequence[ImageFile], fit: Fit, pooling: Pooling, label: str
) -> Float[Tensor, "R D"]:
    """Unit vectors of the images' regions, image by image, on the CPU; ``label`` stands in the progress bar.
    ``fit`` must be one of ``image_preprocessing.WHOLE``. Collective.

    Raises ValueError for a file that is not an image, or has another size than its annotation says.
    """
    ends = list(accumulate(pooling.counts))

    def square(number: int) -> tuple[UInt8[Tensor, "3 S S"], int]:
        image, turn = images[number].open_turned()
        return as_pixels(fit(image, model.image_size)), turn

    def compute() -> Float[Tensor, "R D"]:
        batches, rows = batch_ranges(len(images), run.batch_size), []
        for batch, loaded in load_batches(square, batches, run, f"{label}: regions"):
            dense = patches_of(model.encode_image(torch.stack([pixels for pixels, _ in loaded])))
            regions = pooling(model, dense, batch, [turn for _, turn in loaded])
            rows.append(checked_rows(label, regions))
        return gather_batches(rows, [range(ends[b[0]] - pooling.counts[b[0]], ends[b[-1]]) for b in batches])

    stamps = (stamp() for stamp in (*(image.stamp for image in images), pooling.stamp))
    return cached_rows(model, run, "regions", ends[-1], stamps, compute, fit=fit_name(fit))
