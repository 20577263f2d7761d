"""Stencils: the outline, the fill and the texture of a thing as small grey masks, drawn once and cached.

A shape is one polygon of complex numbers (a rotation is then a multiplication). It is rasterised at 4 times the
resolution, scaled so that the longer side of its box is exactly ``side`` pixels, and cropped to its visible pixels.
All arithmetic after the polygon is in integers, so stencils are the same on every machine.
"""

from __future__ import annotations

import cmath
import math
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SUPERSAMPLING = 4
FAINTEST = 48  # a pixel covered by less than this (of 255) does not belong to the shape
TURNS = (-10, 0, 10)  # degrees

Outline = tuple[complex, ...]


class Stencil(NamedTuple):
    """Masks of one size: the whole shape, the inside of the outline, and the pixels of the second tone."""

    whole: Image.Image
    inside: Image.Image
    second: Image.Image


def _arc(radius: float, start: float, stop: float, centre: complex = 0, points: int = 40) -> Outline:
    step = (stop - start) / points
    return tuple(centre + cmath.rect(radius, math.radians(start + k * step)) for k in range(points + 1))


def _regular(corners: int, start: float, *radii: float) -> Outline:
    steps = corners * len(radii)
    return tuple(cmath.rect(radii[k % len(radii)], math.radians(start + 360 * k / steps)) for k in range(steps))


def _heart() -> Outline:
    angles = [2 * math.pi * k / 48 for k in range(48)]
    across = [16 * math.sin(t) ** 3 for t in angles]
    up = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in angles]
    return tuple(complex(x, -y) for x, y in zip(across, up, strict=True))


# y grows downwards, as in images
OUTLINES: dict[str, Outline] = {
    "circle": _arc(1, 0, 360),
    "square": (-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j),
    "triangle": (-1j, 1.05 + 0.9j, -1.05 + 0.9j),
    "diamond": (-1.25j, 0.9 + 0j, 1.25j, -0.9 + 0j),
    "star": _regular(5, -90, 1.0, 0.5),
    "heart": _heart(),
    "cross": tuple(
        complex(x, y)
        for x, y in (
            *((-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4)),
            *((0.4, 1), (-0.4, 1), (-0.4, 0.4), (-1, 0.4), (-1, -0.4), (-0.4, -0.4)),
        )
    ),
    "ring": _arc(1, 0, 360) + _arc(0.4, 360, 0),
    "crescent": _arc(1, 47, 313) + _arc(0.75, 282, 78, centre=0.53),
    "arrow": (-1 - 0.42j, 0.05 - 0.42j, 0.05 - 0.95j, 1 + 0j, 0.05 + 0.95j, 0.05 + 0.42j, -1 + 0.42j),
    "hexagon": _regular(6, 0, 1.0),
    "hourglass": (-0.9 - 1j, 0.9 - 1j, 0.25 + 0j, 0.9 + 1j, -0.9 + 1j, -0.25 + 0j),
}


@cache
def stencil(shape: str, texture: str, side: int, turn: int) -> Stencil:
    """The masks of a shape whose box is ``side`` pixels on its longer side, turned by ``TURNS[turn]`` degrees."""
    large = _rasterise(OUTLINES[shape], side * SUPERSAMPLING, TURNS[turn])
    inside = _erode(large, round(SUPERSAMPLING * max(0.5, side / 24)))
    pattern = Image.new("L", large.size)
    unit = max(SUPERSAMPLING, SUPERSAMPLING * side // 16)  # textures are coarser on larger things
    PAINTERS[texture](Sheet(ImageDraw.Draw(pattern), *large.size, unit, turn))
    second = ImageChops.multiply(inside, pattern)
    whole = large.reduce(SUPERSAMPLING).point([0 if v < FAINTEST else v for v in range(256)])
    box = whole.getbbox()
    assert box is not None, f"{shape} of {side} pixels shows no pixel"
    return Stencil(whole.crop(box), inside.reduce(SUPERSAMPLING).crop(box), second.reduce(SUPERSAMPLING).crop(box))


def _rasterise(outline: Outline, side: int, degrees: float) -> Image.Image:
    points = [z * cmath.rect(1, math.radians(degrees)) for z in outline]
    xs, ys = [z.real for z in points], [z.imag for z in points]
    scale = (side - 1) / max(max(xs) - min(xs), max(ys) - min(ys))
    mask = Image.new("L", (side, side))
    corners = [(round((x - min(xs)) * scale), round((y - min(ys)) * scale)) for x, y in zip(xs, ys, strict=True)]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return mask


def _erode(mask: Image.Image, width: int) -> Image.Image:
    """The mask without a margin of ``width`` pixels; what lies outside the image counts as empty."""
    eroded = Image.new("L", (mask.width + 2, mask.height + 2))
    eroded.paste(mask, (1, 1))
    for _ in range(width):
        eroded = eroded.filter(ImageFilter.MinFilter(3))
    return eroded.crop((1, 1, 1 + mask.width, 1 + mask.height))


class Sheet(NamedTuple):
    """The mask on which a texture is painted, white for the second tone, before it is cut to the shape."""

    pen: ImageDraw.ImageDraw
    width: int
    height: int
    unit: int  # pixels; marks are a few units wide
    variant: int  # 0, 1 or 2


def _nothing(_: Sheet) -> None:
    """A solid thing has one tone."""


def _stripes(sheet: Sheet) -> None:
    pen, width, height, unit, variant = sheet
    for position in range(0, width + height, 6 * unit if variant == 0 else 4 * unit):
        if variant == 0:
            pen.line(((position, 0), (0, position)), fill=255, width=2 * unit)
        elif variant == 1:
            pen.rectangle((0, position, width, position + 2 * unit - 1), fill=255)
        else:
            pen.rectangle((position, 0, position + 2 * unit - 1, height), fill=255)


def _dots(sheet: Sheet) -> None:
    pen, width, height, unit, variant = sheet
    radius = 9 * unit // 8
    for row, y in enumerate(range((2 + variant) * unit // 2, height + radius, 4 * unit)):
        for x in range((3 + 4 * (row % 2)) * unit // 2, width + radius, 4 * unit):
            pen.ellipse((x - radius, y - radius, x + radius - 1, y + radius - 1), fill=255)


def _checks(sheet: Sheet) -> None:
    pen, width, height, unit, variant = sheet
    step = 3 * unit
    for row, y in enumerate(range(0, height, step)):
        for x in range(step * ((row + variant) % 2), width, 2 * step):
            pen.rectangle((x, y, x + step - 1, y + step - 1), fill=255)


def _fade(sheet: Sheet) -> None:
    for y in range(sheet.height):
        sheet.pen.line(((0, y), (sheet.width, y)), fill=255 * y // sheet.height)


def _half(sheet: Sheet) -> None:
    width, height = sheet.width, sheet.height
    boxes = ((width // 2, 0, width, height), (0, 0, width // 2 - 1, height), (0, height // 2, width, height))
    sheet.pen.rectangle(boxes[sheet.variant], fill=255)


PAINTERS = {
    "solid": _nothing,
    "striped": _stripes,
    "dotted": _dots,
    "checkered": _checks,
    "faded": _fade,
    "split": _half,
}
