"""Heat maps over pictures: where a text looks.

A map is drawn over the picture in grey, on a scale that all texts of the picture share, so that a text which looks at
one place can be told from one that looks everywhere. Its largest value is marked: that is the point of the pointing
game (``eval.localisation``).
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
from eval.localisation import draw_up

OPACITY = 0.6  # of the map over the picture
COLUMNS = 5
TILE, WORDS, GAP = 1.95, 0.8, 0.14  # inches of a map, of the lines above it, between maps


class Heat(NamedTuple):
    """Maps of several texts over the patches of one picture, row by row, and what they measure."""

    maps: Float[Tensor, "T P"]
    measure: str  # with its unit

    def limits(self) -> tuple[float, float]:
        """Smallest and largest value of all maps, the ends of their colour scale."""
        low, high = float(self.maps.min()), float(self.maps.max())
        return low, high if high > low else low + 1e-6


def sized(picture: Image.Image, side: int) -> Image.Image:
    """The picture with a longer side of so many pixels."""
    share = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * share)), max(1, round(picture.height * share))))


def margin(picture: Image.Image) -> int:
    """Pixels around the picture that a ring needs which marks a peak at its edge."""
    radius, thick = _ring_size(picture)
    return radius + thick


def with_margin(picture: Image.Image) -> Image.Image:
    """The picture with a transparent margin: as large as its ``overlay``."""
    wide = margin(picture)
    whole = Image.new("RGBA", (picture.width + 2 * wide, picture.height + 2 * wide), (255, 255, 255, 0))
    whole.paste(picture, (wide, wide))
    return whole


def overlay(picture: Image.Image, heat: Float[Tensor, " P"], limits: tuple[float, float]) -> Image.Image:
    """The map over the picture in grey, its peak marked by a ring, which may reach into the margin."""
    drawn = draw_up(heat.float().cpu(), picture.size).numpy()
    share = ((drawn - limits[0]) / (limits[1] - limits[0])).clip(0, 1)
    colour = colormaps[HEAT](share)[..., :3]
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = with_margin(Image.fromarray((255 * (OPACITY * colour + (1 - OPACITY) * grey)).astype(np.uint8)))
    y, x = divmod(int(drawn.argmax()), picture.width)
    wide, (radius, thick) = margin(picture), _ring_size(picture)
    _ring(ImageDraw.Draw(mixed), x + wide, y + wide, radius, thick)
    return mixed


def _ring_size(picture: Image.Image) -> tuple[int, int]:
    """Radius and thickness in pixels."""
    radius = max(4, min(picture.size) // 22)
    return radius, max(1, radius // 4)


def _ring(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int, thick: int) -> None:
    """White within black: to be seen on any ground."""
    for r, colour, width in ((radius + thick, "black", 3 * thick), (radius, "white", thick)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def heat_figure(picture: Image.Image, texts: Sequence[str], heat: Heat, title: str) -> Figure:
    """The picture, and a map for each text with the text above it; one colour scale for all."""
    rows, columns = -(-(len(texts) + 1) // COLUMNS), min(len(texts) + 1, COLUMNS)
    width, room = columns * (TILE + GAP) + GAP, TILE + WORDS
    with canvas(width + SCALE + 0.1, HEADING + rows * room + GAP) as figure:
        heading(figure, title)
        limits = heat.limits()
        large = sized(picture, round(TILE * DPI))
        around = margin(large) / DPI
        drawn = [with_margin(large), *(overlay(large, one, limits) for one in heat.maps)]
        for number, (one, text) in enumerate(zip(drawn, ["picture", *texts], strict=True)):
            row, column = divmod(number, columns)
            left, top = GAP + column * (TILE + GAP), HEADING + row * room + WORDS
            show(figure, one, left - around, top - around, TILE + 2 * around, TILE + 2 * around)
            words = wrapped(text, 29, 4)
            write(figure, words, left + TILE / 2, top - around - 0.02, ha="center", va="bottom", fontsize=8.5)
        scale_bar(figure, width, HEADING + WORDS, max(TILE, rows * room - WORDS), limits, heat.measure)
    return figure
