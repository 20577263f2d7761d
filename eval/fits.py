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


WHOLE: tuple[Fit, ...] = (squash, squash_bilinear)  # a box in fractions of the picture is one of the square


def whole_fit(name: str, given: Fit | None, own: Fit) -> Fit:
    """The fit ``given`` by the user, or the protocol's ``own``; ValueError where boxes would not stay in place."""
    if given is not None and given not in WHOLE:
        raise ValueError(f"{name}: --fit must be of {', '.join(f.__name__ for f in WHOLE)}, got {given.__name__}")
    return given or own


def no_fit(name: str, given: Fit | None) -> None:
    """Raises ValueError where the user gives a fit to a protocol that is defined by its own."""
    if given is not None:
        raise ValueError(f"{name} prepares pictures in its own way, --fit does not apply, got {given.__name__}")


FITS: tuple[Fit, ...] = (centre_crop, squash, squash_bilinear, longest)
