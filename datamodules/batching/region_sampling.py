"""Crops around boxes as images of their own, for the whole image tower (CLIPSelf, FineCLIP).

A crop is cut from the image as it is stored, before any resizing, with some of the surroundings: the box enlarged
about its centre and cut to the image, then squashed to the square that the tower takes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.bounds import at_least
from datamodules.image_decoding import UNREADABLE, as_rgb, open_image
from datamodules.sample import SampleError


@dataclass(frozen=True)
class RegionSampling:
    """The choice of an image's boxes, and of those that are cut out as crops too.

    Args:
        boxes: the largest number of distinct boxes of a training image, drawn at random; None: all, as in evaluation.
        crops: the number of them, the first ones drawn, that are crops too. Each costs as much as an image.
        context: a crop shows the box enlarged by this factor about its centre (FineCLIP: 1.5).
        min_area: boxes of fewer square pixels of the stored image are left out in training, and counted (FineCLIP:
            64).
    """

    boxes: int | None = None
    crops: int = 0
    context: float = 1.5
    min_area: float = 0.0

    def __post_init__(self) -> None:
        at_least("data.regions", 1, boxes=1 if self.boxes is None else self.boxes)
        if self.crops < 0:
            raise ValueError(f"data.regions.crops must be 0 or more, got {self.crops}")
        if not (math.isfinite(self.context) and self.context >= 1):
            raise ValueError(f"data.regions.context must be at least 1, the box itself, got {self.context}")
        if not (math.isfinite(self.min_area) and self.min_area >= 0):
            raise ValueError(f"data.regions.min_area must be 0 or more, got {self.min_area}")

    def large(self, boxes: Float[np.ndarray, "R 4"], width: int, height: int) -> Bool[np.ndarray, " R"]:
        """Mask of the boxes, in fractions of an image of ``width`` × ``height`` pixels, that have ``min_area``."""
        area = (boxes[:, 2] - boxes[:, 0]) * width * (boxes[:, 3] - boxes[:, 1]) * height
        return area >= self.min_area

    def draw(self, candidates: list[int], rng: random.Random | None) -> list[int]:
        """A random choice of ``candidates``, the first ones for crops; ``rng`` None takes all, in order."""
        if rng is None or (self.boxes is None and self.crops == 0):
            return candidates
        return rng.sample(candidates, len(candidates))[: self.boxes]

    def cut(
        self,
        data: bytes,
        boxes: Float[np.ndarray, "C 4"],
        size: int,
        resampling: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> UInt8[Tensor, "C 3 S S"]:
        """Crops around ``boxes`` (fractions of the upright image in ``data``) as squares of side ``size``.

        Raises ``SampleError`` (reason ``image``) where the image cannot be decoded.
        """
        crops = torch.empty(len(boxes), 3, size, size, dtype=torch.uint8)
        if not len(boxes):
            return crops
        try:
            image = as_rgb(open_image(data))
        except UNREADABLE as error:
            raise SampleError("image", f"the image cannot be decoded: {error}") from error
        sides = np.array([image.width, image.height])
        for crop, box in zip(crops, boxes, strict=True):
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * self.context
            part = np.concatenate([(centre - half).clip(0, 1) * sides, (centre + half).clip(0, 1) * sides])
            square = image.resize((size, size), resampling, tuple(part.tolist()))
            crop.copy_(torch.from_numpy(np.array(square)).permute(2, 0, 1))
        return crops
