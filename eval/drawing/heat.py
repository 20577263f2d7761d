"""Heat maps over pictures: where a text looks.

A map is drawn over the picture in grey, on a scale that all texts of the picture share, so that a text which looks at
one place can be told from one that looks everywhere. Its largest value is marked: that is the point of the pointing
game (``eval.localisation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from eval.drawing.canvas import HEAT, canvas
from eval.drawing.words import wrapped
from eval.localisation import draw_up

OPACITY = 0.6  # of the map over the picture
COLUMNS = 5


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


def overlay(picture: Image.Image, heat: Float[Tensor, " P"], limits: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    """The map over the picture in grey, its peak marked by a ring."""
    drawn = draw_up(heat.float().cpu(), picture.size).numpy()
    share = ((drawn - limits[0]) / (limits[1] - limits[0])).clip(0, 1)
    colour = colormaps[HEAT](share)[..., :3]
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255
    mixed = Image.fromarray((255 * (OPACITY * colour + (1 - OPACITY) * grey)).astype(np.uint8))
    y, x = divmod(int(drawn.argmax()), picture.width)
    _ring(ImageDraw.Draw(mixed), x, y, max(4, min(picture.size) // 22))
    return np.asarray(mixed)


def _ring(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int) -> None:
    """White within black: to be seen on any ground."""
    thick = max(1, radius // 4)
    for r, colour, width in ((radius + thick, "black", 3 * thick), (radius, "white", thick)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def scale_strip(width: int = 256, height: int = 12) -> Image.Image:
    """The colours from the lowest value to the highest."""
    row = colormaps[HEAT](np.linspace(0, 1, width))[None, :, :3]
    return Image.fromarray((255 * row.repeat(height, axis=0)).astype(np.uint8))


def heat_figure(picture: Image.Image, texts: Sequence[str], heat: Heat, title: str) -> Figure:
    """The picture, and a map for each text: name of the grain and text above, one colour scale beside all."""
    rows = -(-(len(texts) + 1) // COLUMNS)
    columns = min(len(texts) + 1, COLUMNS)
    with canvas(2.1 * columns + 0.9, 2.75 * rows + 0.5) as figure:
        figure.suptitle(title)
        grid = figure.subplots(rows, columns, squeeze=False)
        axes: list[Axes] = list(grid.flat)
        axes[0].imshow(picture)
        axes[0].set_title("picture")
        limits = heat.limits()
        for ax, text, one in zip(axes[1:], texts, heat.maps, strict=False):
            ax.imshow(overlay(picture, one, limits))
            ax.set_title(wrapped(text, 26, 4))
        for ax in axes:
            ax.set_axis_off()
        scale = ScalarMappable(Normalize(*limits), HEAT)
        figure.colorbar(scale, ax=axes, shrink=0.8, aspect=30, label=heat.measure)
    return figure
