"""Figures without a display, all in one style, and their output as PNG, SVG or pixels.

Texts are drawn literally: a "$" starts no formula, and a letter that the font lacks becomes a box without a warning.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's
RIGHT, WRONG = COLOURS[0], COLOURS[1]
HEAT = "viridis"  # even in lightness: the same order in grey and for colour-blind readers
DPI = 100
HEADING = 0.4  # inches
SCALE = 0.75  # inches
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "text.parse_math": False,
    "text.hinting": "none",  # saves a fifth of the time
    "svg.hashsalt": "grainclip",  # equal figures give equal files
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A figure of the given size in inches."""
    with rc_context(LOOK):
        figure = Figure((width, height), DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes; position (from the figure's left and top edges) and size are in inches.

    Matplotlib's automatic layout draws everything three times, which is slow during training. For the same reason
    images and words are drawn without axes: see ``show`` and ``write``.
    """
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def show(figure: Figure, image: Image.Image, left: float, top: float, width: float, height: float) -> None:
    """Draw an image, stretched to the given size, at the given distance from the left and top edges, in inches."""
    size = round(width * DPI), round(height * DPI)
    bottom = figure.get_size_inches()[1] - top - height
    figure.figimage(np.asarray(image.resize(size)), round(left * DPI), round(bottom * DPI))


def write(figure: Figure, text: str, left: float, top: float, **style: Any) -> Text:
    """Draw text at a distance in inches from the left and top edges; ``style`` is matplotlib's, alignment included."""
    width, height = figure.get_size_inches()
    return figure.text(left / width, 1 - top / height, text, **style)


def frame(figure: Figure, left: float, top: float, width: float, height: float, **style: Any) -> None:
    """Draw a rectangle, in inches; ``style`` is matplotlib's."""
    bottom = figure.get_size_inches()[1] - top - height
    figure.add_artist(Rectangle((left, bottom), width, height, transform=figure.dpi_scale_trans, **style))


def heading(figure: Figure, title: str) -> None:
    """Draw the figure's title, in the top ``HEADING`` inches."""
    write(figure, title, figure.get_size_inches()[0] / 2, HEADING / 2, ha="center", va="center", fontsize=11)


def scale_strip(width: int = 256, height: int = 12) -> Image.Image:
    """An image of the colours of ``HEAT``, from the lowest value on the left to the highest."""
    row = colormaps[HEAT](np.linspace(0, 1, width))[None, :, :3]
    return Image.fromarray((255 * row.repeat(height, axis=0)).astype(np.uint8))


def scale_marks(limits: tuple[float, float]) -> tuple[str, str, str]:
    """The lowest, middle and highest value of a scale, as text."""
    low, high = limits
    return f"{low:.2f}", f"{(low + high) / 2:.2f}", f"{high:.2f}"


def scale_bar(figure: Figure, left: float, top: float, height: float, marks: tuple[str, str, str], unit: str) -> None:
    """Draw the colours of ``HEAT`` with three marks, the lowest first, and the unit; it is ``SCALE`` inches wide."""
    show(figure, scale_strip().transpose(Image.Transpose.ROTATE_90), left, top, 0.14, height)
    for share, mark in zip((0.0, 0.5, 1.0), marks, strict=True):
        write(figure, mark, left + 0.2, top + (1 - share) * height, va="center", fontsize=8)
    write(figure, unit, left + 0.66, top + height / 2, rotation=90, ha="center", va="center", fontsize=8)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, with fast compression: the smallest file takes several times as long."""
    file = io.BytesIO()
    Image.fromarray(pixels(figure)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file."""
    file = io.BytesIO()
    with rc_context(LOOK), _no_glyph_warnings():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The figure as RGB pixels."""
    agg = figure.canvas
    assert isinstance(agg, FigureCanvasAgg)
    with rc_context(LOOK), _no_glyph_warnings():
        agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph .* missing from")
        yield
