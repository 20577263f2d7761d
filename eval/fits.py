"""Fits: how a picture becomes the model's square. Each moves numbers, so its name stands in the results.

``centre_crop`` is OpenAI CLIP's own, ``squash`` is FG-CLIP's and β-CLIP's FG-OVD, ``squash_bilinear`` FineCLIP's,
``longest`` CLIPSelf's. Only the last three keep the whole picture, which boxes need.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Fit = Callable[[Image.Image, int], Image.Image]  # an RGB picture and the side of the square in pixels


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """The shorter side is resized to ``side`` (bicubic), the middle square is kept: torchvision's numbers."""
    width, height = image.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    left, top = (round((length - side) / 2.0) for length in size)
    return image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


def squash(image: Image.Image, side: int) -> Image.Image:
    """The whole picture, aspect ratio not kept, bicubic."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def squash_bilinear(image: Image.Image, side: int) -> Image.Image:
    """The whole picture, aspect ratio not kept, bilinear."""
    return image.resize((side, side), Image.Resampling.BILINEAR)


def longest(image: Image.Image, side: int) -> Image.Image:
    """The longer side is resized to ``side`` (bicubic); black fills what is left at the right or the bottom."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    return square


FITS: tuple[Fit, ...] = (centre_crop, squash, squash_bilinear, longest)
