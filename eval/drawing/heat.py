"""Heat maps over images: where a text looks.

Each map is drawn over the image in grey, on a colour scale of its own, from its smallest value to its largest: on a
shared scale one text with a sharp peak leaves all others dark. The peak is told above the map, so that a text which
looks at one place can be told from one that looks everywhere, and is marked by a ring: the point of the pointing game
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
    """Maps of several texts over the patches of one image, row by row, and what they measure."""

    maps: Float[Tensor, "T P"]
    measure: str  # with its unit

    def peaks(self) -> list[str]:
        """The largest value of each map, as "peak 3.2"."""
        return [f"peak {float(one.max()):.3g}" for one in self.maps]


def sized(image: Image.Image, side: int) -> Image.Image:
    """The image with a longer side of so many pixels."""
    share = side / max(image.size)
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def margin(image: Image.Image) -> int:
    """Pixels around the image that a ring needs which marks a peak at its edge."""
    radius, thick = _ring_size(image)
    return radius + thick


def with_margin(image: Image.Image) -> Image.Image:
    """The image with a transparent margin: as large as its ``overlay``."""
    wide = margin(image)
    whole = Image.new("RGBA", (image.width + 2 * wide, image.height + 2 * wide), (255, 255, 255, 0))
    whole.paste(image, (wide, wide))
    return whole


def overlay(image: Image.Image, heat: Float[Tensor, " P"]) -> Image.Image:
    """The map over the image in grey, coloured from its smallest value to its largest, its peak marked by a ring, which
    may reach into the margin.
    """
    drawn = upsample_map(heat.float().cpu(), image.size).numpy()
    low, high = float(heat.min()), float(heat.max())
    share = ((drawn - low) / max(high - low, 1e-6)).clip(0, 1)
    colour = colormaps[HEAT](share)[..., :3]
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = with_margin(Image.fromarray((255 * (OPACITY * colour + (1 - OPACITY) * grey)).astype(np.uint8)))
    y, x = divmod(int(drawn.argmax()), image.width)
    wide, (radius, thick) = margin(image), _ring_size(image)
    _ring(ImageDraw.Draw(mixed), x + wide, y + wide, radius, thick)
    return mixed


def _ring_size(image: Image.Image) -> tuple[int, int]:
    """Radius and thickness in pixels."""
    radius = max(4, min(image.size) // 22)
    return radius, max(1, radius // 4)


def _ring(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int, thick: int) -> None:
    """White within black: to be seen on any ground."""
    for r, colour, width in ((radius + thick, "black", 3 * thick), (radius, "white", thick)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def heat_figure(image: Image.Image, texts: Sequence[str], heat: Heat, title: str) -> Figure:
    """The image, and a map for each text with the text and the map's peak above it."""
    rows, columns = -(-(len(texts) + 1) // COLUMNS), min(len(texts) + 1, COLUMNS)
    width, room = columns * (TILE + GAP) + GAP, TILE + WORDS
    with canvas(width + SCALE + 0.1, HEADING + rows * room + GAP) as figure:
        heading(figure, title)
        large = sized(image, round(TILE * DPI))
        around = margin(large) / DPI
        drawn = [with_margin(large), *(overlay(large, one) for one in heat.maps)]
        peaks = ["", *heat.peaks()]
        for number, (one, text, peak) in enumerate(zip(drawn, ["image", *texts], peaks, strict=True)):
            row, column = divmod(number, columns)
            left, top = GAP + column * (TILE + GAP), HEADING + row * room + WORDS
            show(figure, one, left - around, top - around, TILE + 2 * around, TILE + 2 * around)
            words = "\n".join(filter(None, [wrapped(text, 29, 4), peak]))
            write(figure, words, left + TILE / 2, top - around - 0.02, ha="center", va="bottom", fontsize=8.5)
        marks = ("lowest", "", "peak")
        scale_bar(figure, width, HEADING + WORDS, max(TILE, rows * room - WORDS), marks, heat.measure)
    return figure
