"""Image transforms of an image and its boxes: a uint8 square and the boxes in it.

A JPEG is decoded at the smallest scale that still covers the target (PIL's draft mode) and resized once. Images are
turned upright first, and crops and boxes are those of the upright image (``datamodules.image_decoding``). Pixels stay
uint8 until they are on the device, where they are normalised: a quarter of the traffic. There is no horizontal flip: it
would make "left of" false.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from typing_extensions import override

from datamodules.image_decoding import UNREADABLE, as_rgb, draft, upright_size
from datamodules.sample import SampleError

Channels = tuple[float, float, float]  # a number for each of red, green and blue
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Crop = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class ImageTransform(ABC):
    """A transform is defined by the part of the image that it crops; everything else is shared."""

    @abstractmethod
    def crop(self, width: int, height: int, rng: random.Random) -> Crop:
        """The part of the upright image to keep, in pixels."""

    def __call__(
        self,
        image: Image.Image,
        boxes: np.ndarray,
        size: int,
        rng: random.Random,
        resampling: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> tuple[UInt8[Tensor, "3 S S"], Float[np.ndarray, "R 4"], Bool[np.ndarray, " R"]]:
        """The square of side ``size``, the boxes [R, 4] in fractions of it, and a mask of the boxes that stay.

        A box is kept while at least half of its area is; what hangs out is clipped.
        """
        try:
            width, height = upright_size(image)
            left, top, right, bottom = self.crop(width, height, rng)
            shrink = max(min((right - left), (bottom - top)) / size, 1)
            draft(image, (int(width / shrink), int(height / shrink)))
            rgb = as_rgb(image)
            sx, sy = rgb.width / width, rgb.height / height
            square = rgb.resize((size, size), resampling, (left * sx, top * sy, right * sx, bottom * sy))
        except UNREADABLE as error:
            raise SampleError("image", f"the image cannot be decoded: {error}") from error
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
        part = np.array([left / width, top / height, right / width, bottom / height])
        return pixels, *move_boxes(boxes, part)


def move_boxes(
    boxes: Float[np.ndarray, "R 4"], part: Float[np.ndarray, " 4"]
) -> tuple[Float[np.ndarray, "R 4"], Bool[np.ndarray, " R"]]:
    """Boxes in fractions of the image -> in fractions of its ``part``; and a mask of those at least half inside."""
    origin, extent = np.tile(part[:2], 2), np.tile(part[2:] - part[:2], 2)
    part_boxes = (boxes - origin) / extent
    clipped = part_boxes.clip(0.0, 1.0)
    area = (part_boxes[:, 2] - part_boxes[:, 0]) * (part_boxes[:, 3] - part_boxes[:, 1])
    visible = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    return clipped, visible >= 0.5 * area


class RandomCrop(ImageTransform):
    """A random part of the image (Inception's RandomResizedCrop): ``scale`` of its area, ``ratio`` of width to
    height.

    The published β-CLIP recipe takes ``scale`` (0.5, 1).

    Args:
        scale: smallest and largest share of the area.
        ratio: smallest and largest ratio of width to height.
        views: the number of crops that images of one size have; one of them is drawn each time. The same pixels then
            come again, and what a frozen image tower makes of them can be kept (``freeze.feature_cache_gib``). None:
            each crop is a new one.

    Raises:
        ValueError: unless 0 < scale[0] <= scale[1] <= 1, 0 < ratio[0] <= ratio[1] and ``views`` is at least 1.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        views: int | None = None,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must satisfy 0 < low <= high <= 1, got {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must satisfy 0 < low <= high, got {ratio}")
        if views is not None and views < 1:
            raise ValueError(f"views must be 1 or more, got {views}")
        self.scale, self.ratio, self.views = tuple(scale), tuple(ratio), views

    @override
    def crop(self, width: int, height: int, rng: random.Random) -> Crop:
        if self.views is not None:
            rng = random.Random(f"{width} x {height}, view {rng.randrange(self.views)}")
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if w <= width and h <= height:
                left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
                return left, top, left + w, top + h
        return CenterCrop().crop(width, height, rng)


class CenterCrop(ImageTransform):
    """OpenAI CLIP's evaluation transform: the largest centred square."""

    @override
    def crop(self, width: int, height: int, rng: random.Random) -> Crop:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


class Squash(ImageTransform):
    """The whole image, aspect ratio not kept: every box stays in it (FG-CLIP's and FineCLIP's transform)."""

    @override
    def crop(self, width: int, height: int, rng: random.Random) -> Crop:
        return 0.0, 0.0, float(width), float(height)


def normalise(images: Tensor, mean: Channels = CLIP_MEAN, std: Channels = CLIP_STD) -> Tensor:
    """uint8 [B, 3, H, W] -> float32, (x / 255 - mean) / std by channel; OpenAI CLIP's by default."""
    return (images.float() / 255 - _channels(mean, images.device)) / _channels(std, images.device)


@lru_cache(maxsize=16)
def _channels(values: Channels, device: torch.device) -> Float[Tensor, "3 1 1"]:
    """A number for each channel, made once: a GPU's host waits while it copies them there."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)
