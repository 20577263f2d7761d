"""Figures without a display: one look for all of them, and what becomes of one: PNG, SVG or pixels.

Texts are drawn as they are: a "$" starts no formula, and a letter that the font lacks becomes a box, not a warning.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's
RIGHT, WRONG = COLOURS[0], COLOURS[1]
HEAT = "viridis"  # even in lightness: the same order in grey and for colour-blind readers
DPI = 100
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 11,
    "text.parse_math": False,
    "svg.hashsalt": "grainclip",  # equal figures give equal files
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches to draw on; what is drawn finds its own room."""
    with rc_context(LOOK):
        figure = Figure((width, height), DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return _saved(figure, "png")


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file: lines stay sharp at any size."""
    return _saved(figure, "svg")


def pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The figure as RGB pixels."""
    agg = figure.canvas
    assert isinstance(agg, FigureCanvasAgg)
    with rc_context(LOOK), _any_letter():
        agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()


def _saved(figure: Figure, format: str) -> bytes:
    file = io.BytesIO()
    with rc_context(LOOK), _any_letter():
        figure.savefig(file, format=format, metadata={"Date": None} if format == "svg" else None)
    return file.getvalue()


@contextmanager
def _any_letter() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph .* missing from")
        yield
