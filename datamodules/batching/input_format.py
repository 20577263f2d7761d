"""The form in which a model takes inputs: the tokenizer of its texts; resizing, mean and deviation of its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Resampling
from torch import Tensor

from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD, Channels, normalise
from datamodules.batching.tokenizer import TextTokenizer


@dataclass(frozen=True)
class InputFormat:
    """Preparation of texts and pixels.

    Args:
        tokenizer: texts to token ids.
        mean: of pixels that range from 0 to 1, by channel.
        std: their standard deviation, by channel.
        interpolation: of images that are resized: ``bicubic``, ``bilinear``, or another of Pillow's names.
    """

    tokenizer: TextTokenizer
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    interpolation: str = "bicubic"

    @property
    def resampling(self) -> Resampling:
        """Pillow's filter for resizing."""
        return Resampling[self.interpolation.upper()]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32, (x / 255 - mean) / std."""
        return normalise(images, self.mean, self.std)
