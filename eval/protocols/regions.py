"""Vectors of regions of images, taken from the model's dense map: boxes by RoIAlign, and what else a protocol asks.

Each image is embedded once, whatever the number of its regions. Published protocols differ in what is done to the
patch tokens before they are pooled (``as_they_are``, ``all_alike``).
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
from eval.data.image_preprocessing import Fit, covered
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model
from eval.metrics.gather import rank, world_size
from eval.protocols.embed import ahead, as_pixels, checked_rows, fit_name, in_batches, together

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in fractions of the image
Prepare = Callable[[Float[Tensor, "B P D"]], Float[Tensor, "B P D"]]  # patch tokens, before they are pooled


def as_they_are(dense: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """Tokens unchanged: a patch weighs as much as it is long."""
    return dense


def all_alike(dense: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """Tokens of unit norm: all patches of a region weigh the same."""
    return functional.normalize(dense.float(), dim=-1)


class Pooling(Protocol):
    """From the dense maps of some images to unit vectors, image by image."""

    @property
    def counts(self) -> Sequence[int]:
        """Vectors of each image, at least one."""
        ...

    def stamp(self) -> str:
        """Changes with what is asked."""
        ...

    def __call__(
        self, model: Model, dense: Float[Tensor, "B P D"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """The vectors of ``images``, whose maps ``dense`` holds.

        ``turns`` are the orientations by which the annotations of ``images`` must be turned.
        """
        ...


class Boxes:
    """RoIAlign over boxes.

    Args:
        boxes: of each image.
        images: the images, of known size.
        fit: how they become squares.
        prepare: what is done to patch tokens first.
    """

    def __init__(
        self, boxes: Sequence[Sequence[Box]], images: Sequence[ImageFile], fit: Fit, prepare: Prepare = as_they_are
    ) -> None:
        self.prepare, self.counts = prepare, [len(own) for own in boxes]
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
        return digest([self.prepare.__name__, *(str(own.tolist()) for own in self.boxes)])

    def __call__(
        self, model: Model, dense: Float[Tensor, "B P D"], images: Sequence[int], turns: Sequence[int]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the images' boxes, one image after the other."""
        placed = [self._placed(number, turn) for number, turn in zip(images, turns, strict=True)]
        boxes = torch.cat(placed).to(dense.device)
        image = torch.tensor([row for row, number in enumerate(images) for _ in range(self.counts[number])])
        return model.pool_regions(self.prepare(dense), boxes, image.to(dense.device))


def embed_regions(
    model: Model, run: EvalContext, images: Sequence[ImageFile], fit: Fit, pooling: Pooling, label: str
) -> Float[Tensor, "R D"]:
    """Unit vectors of the images' regions, image by image, on the CPU; ``label`` is what the progress bar says.
    ``fit`` must be one of ``fits.WHOLE``. Collective.

    Raises ValueError for a file that is no image, or has another size than its annotation says.
    """
    ends = list(accumulate(pooling.counts))

    def square(number: int) -> tuple[UInt8[Tensor, "3 S S"], int]:
        image, turn = images[number].open_turned()
        return as_pixels(fit(image, model.image_size)), turn

    def compute() -> Float[Tensor, "R D"]:
        batches, rows = in_batches(len(images), run.batch_size), []
        mine = batches[rank() :: world_size()]
        squares = ahead(square, run.track(mine, f"{label}: regions"))
        for numbers, part in zip(mine, squares, strict=True):
            dense = model.encode_image(torch.stack([pixels for pixels, _ in part])).dense
            regions = pooling(model, dense, numbers, [turn for _, turn in part])
            rows.append(checked_rows(label, regions))
        return together(rows, [range(ends[b[0]] - pooling.counts[b[0]], ends[b[-1]]) for b in batches])

    if run.cache is None:
        return compute()
    data = digest([*(image.stamp() for image in images), pooling.stamp()])
    what = {"of": f"{ends[-1]} regions", "data": data, "fit": fit_name(fit), "model": model.digest}
    return run.cache.rows(what, ends[-1], compute)
