"""Fits: how an image becomes the model's square. Each changes the numbers, so its name stands in the results.

``centre_crop`` is OpenAI CLIP's own, ``squash`` that of FG-CLIP and of β-CLIP's FG-OVD, ``squash_bilinear`` FineCLIP's,
``longest`` CLIPSelf's for images and ``letterbox`` CLIPSelf's for crops. Boxes need a fit that keeps the whole image.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Fit = Callable[[Image.Image, int], Image.Image]  # an RGB image and the side of the square in pixels


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to ``side`` (bicubic) and keep the centre square; equal to torchvision's transforms."""
    width, height = image.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    left, top = (round((length - side) / 2.0) for length in size)
    return image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


def squash(image: Image.Image, side: int) -> Image.Image:
    """The whole image, aspect ratio not kept, bicubic."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def squash_bilinear(image: Image.Image, side: int) -> Image.Image:
    """The whole image, aspect ratio not kept, bilinear."""
    return image.resize((side, side), Image.Resampling.BILINEAR)


def longest(image: Image.Image, side: int) -> Image.Image:
    """Resize the longer side to ``side`` (bicubic) and pad with black at the right or the bottom."""
    square = Image.new("RGB", (side, side))
    square.paste(_within(image, side), (0, 0))
    return square


def letterbox(image: Image.Image, side: int) -> Image.Image:
    """Like ``longest``, with the image centred."""
    square, inner = Image.new("RGB", (side, side)), _within(image, side)
    square.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    return square


def _within(image: Image.Image, side: int) -> Image.Image:
    width, height = fitted(image.size, side)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of an image whose longer side is resized to ``side``, at least 1."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


SQUASHED: tuple[Fit, ...] = (squash, squash_bilinear)  # fractions of the image are fractions of the square
WHOLE: tuple[Fit, ...] = (*SQUASHED, longest)


def covered(fit: Fit, size: tuple[int, int]) -> tuple[float, float]:
    """The shares of the square's width and height that an image of ``size`` pixels takes, from the top left.

    ``fit`` is one of ``WHOLE``.
    """
    return (size[0] / max(size), size[1] / max(size)) if fit is longest else (1.0, 1.0)


def whole_fit(name: str, user_fit: Fit | None, default: Fit, allowed: tuple[Fit, ...] = WHOLE) -> Fit:
    """The user's fit, or the protocol's ``default``. Raises ValueError where boxes would not stay in place."""
    if user_fit is not None and user_fit not in allowed:
        raise ValueError(f"{name}: --fit must be of {', '.join(f.__name__ for f in allowed)}, got {user_fit.__name__}")
    return user_fit or default


def no_fit(name: str, user_fit: Fit | None) -> None:
    """Raises ValueError where the user gives a fit to a protocol that defines its own."""
    if user_fit is not None:
        raise ValueError(f"{name} prepares images in its own way, --fit does not apply, got {user_fit.__name__}")


def fit_name(fit: Fit) -> str:
    """The name of a fit in results and in the keys of cached rows."""
    return getattr(fit, "__name__", repr(fit))


def fit_setting(fit: Fit, side: int) -> str:
    """The image preprocessing as results state it: the fit and the side of the square."""
    return f"{fit_name(fit)}, {side}×{side}"


FITS: tuple[Fit, ...] = (centre_crop, squash, squash_bilinear, longest, letterbox)
