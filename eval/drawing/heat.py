"""Heat maps over images: the attention of a text, or its similarity to patches.

Each map is drawn over the image in grey, on a colour scale of its own, from its smallest value to its largest: on a
shared scale one text with a sharp peak leaves all others dark. The peak's value stands above the map, to distinguish a
sharp map from a flat one, and a ring marks its position: the point of the pointing game
(``eval.protocols.phrase_grounding``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from eval.drawing.canvas import DPI, HEADING, HEAT, SCALE, canvas, heading, scale_bar, show, write
from eval.drawing.words import wrapped
from eval.protocols.phrase_grounding import upsample_map

OPACITY = 0.6  # of the map over the image
COLUMNS = 5
TILE, WORDS, GAP = 1.95, 0.95, 0.14  # inches of a map, of the lines above it, between maps


class Heat(NamedTuple):
    """Maps of several texts over the patches of one image, row by row, and the measure that they show."""

    maps: Float[Tensor, "T P"]
    measure: str  # with its unit

    def peaks(self) -> list[str]:
        """The largest value of each map, as "peak 3.2"."""
        return [f"peak {float(patches.max()):.3g}" for patches in self.maps]


def resized(image: Image.Image, side: int) -> Image.Image:
    """The image, resized to a longer side of ``side`` pixels."""
    share = side / max(image.size)
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def margin(image: Image.Image) -> int:
    """Pixels around the image, enough for a ring around a peak at the image's edge."""
    radius, thick = _ring_size(image)
    return radius + thick


def with_margin(image: Image.Image) -> Image.Image:
    """The image with a transparent margin, as large as its ``overlay``."""
    wide = margin(image)
    framed = Image.new("RGBA", (image.width + 2 * wide, image.height + 2 * wide), (255, 255, 255, 0))
    framed.paste(image, (wide, wide))
    return framed


def overlay(image: Image.Image, heat: Float[Tensor, " P"]) -> Image.Image:
    """The map over the image in grey, coloured from its smallest value to its largest. A ring marks its peak and may
    reach into the margin.
    """
    pixels = upsample_map(heat.float().cpu(), image.size).numpy()
    low, high = float(heat.min()), float(heat.max())
    share = ((pixels - low) / max(high - low, 1e-6)).clip(0, 1)
    colour = colormaps[HEAT](share)[..., :3]
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = with_margin(Image.fromarray((255 * (OPACITY * colour + (1 - OPACITY) * grey)).astype(np.uint8)))
    y, x = divmod(int(pixels.argmax()), image.width)
    wide, (radius, thick) = margin(image), _ring_size(image)
    _draw_ring(ImageDraw.Draw(mixed), x + wide, y + wide, radius, thick)
    return mixed


def _ring_size(image: Image.Image) -> tuple[int, int]:
    """Radius and thickness in pixels."""
    radius = max(4, min(image.size) // 22)
    return radius, max(1, radius // 4)


def _draw_ring(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int, thick: int) -> None:
    """Draw a white ring between black ones, visible on any background."""
    for r, colour, width in ((radius + thick, "black", 3 * thick), (radius, "white", thick)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def heat_figure(image: Image.Image, texts: Sequence[str], heat: Heat, title: str) -> Figure:
    """The image, and a map for each text with the text and the map's peak above it."""
    rows, columns = -(-(len(texts) + 1) // COLUMNS), min(len(texts) + 1, COLUMNS)
    width, room = columns * (TILE + GAP) + GAP, TILE + WORDS
    with canvas(width + SCALE + 0.1, HEADING + rows * room + GAP) as figure:
        heading(figure, title)
        large = resized(image, round(TILE * DPI))
        around = margin(large) / DPI
        panels = [with_margin(large), *(overlay(large, patches) for patches in heat.maps)]
        peaks = ["", *heat.peaks()]
        for number, (panel, text, peak) in enumerate(zip(panels, ["image", *texts], peaks, strict=True)):
            row, column = divmod(number, columns)
            left, top = GAP + column * (TILE + GAP), HEADING + row * room + WORDS
            show(figure, panel, left - around, top - around, TILE + 2 * around, TILE + 2 * around)
            words = "\n".join(filter(None, [wrapped(text, 29, 4), peak]))
            write(figure, words, left + TILE / 2, top - around - 0.02, ha="center", va="bottom", fontsize=8.5)
        marks = ("lowest", "", "peak")
        scale_bar(figure, width, HEADING + WORDS, max(TILE, rows * room - WORDS), marks, heat.measure)
    return figure
