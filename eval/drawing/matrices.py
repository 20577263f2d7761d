"""Figures of similarity and target matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from eval.drawing.canvas import HEADING, HEAT, SCALE, add_axes, canvas, heading, scale_bar, scale_marks
from eval.drawing.words import short

NAMES = 3.1  # inches for the words of a text


def within_figure(
    cosines: Float[Tensor, "K K"], codes: Sequence[str], texts: Sequence[str], labels: tuple[str, str], title: str
) -> Figure:
    """The texts of one image against each other; ``labels`` name the rows and the columns."""
    side = max(1.6, 0.32 * len(codes))
    with canvas(NAMES + side + SCALE + 0.3, HEADING + side + 0.6) as figure:
        heading(figure, title)
        ax = add_axes(figure, NAMES, HEADING, side, side)
        ax.imshow(cosines.cpu().numpy(), cmap=HEAT, aspect="auto")
        ax.set_xticks(range(len(codes)), codes)
        ax.set_yticks(range(len(codes)), [f"{short(t, 34)}  {c}" for c, t in zip(codes, texts, strict=True)])
        _label_axes(ax, labels[1], labels[0])
        scale_bar(figure, NAMES + side + 0.15, HEADING, side, scale_marks(_limits(cosines)), "cosine")
    return figure


def block_figure(cosines: Float[Tensor, "N N"], counts: Sequence[int], labels: tuple[str, str], title: str) -> Figure:
    """All texts of several images against each other; ``counts`` are the texts of each image, lines separate images."""
    edges = np.cumsum([0, *counts])
    with canvas(5.9, HEADING + 4.9) as figure:
        heading(figure, title)
        ax = add_axes(figure, 0.6, HEADING, 4.3, 4.3)
        ax.imshow(cosines.cpu().numpy(), cmap=HEAT, interpolation="nearest", aspect="auto")
        for edge in edges[1:-1] - 0.5:
            ax.axhline(edge, color="white", linewidth=0.6)
            ax.axvline(edge, color="white", linewidth=0.6)
        middles = (edges[:-1] + edges[1:] - 1) / 2
        names = [str(number + 1) for number in range(len(counts))]
        ax.set_xticks(middles, names)
        ax.set_yticks(middles, names)
        _label_axes(ax, f"{labels[1]}, by image", f"{labels[0]}, by image")
        scale_bar(figure, 5.05, HEADING, 4.3, scale_marks(_limits(cosines)), "cosine")
    return figure


def sweep_figure(targets: Mapping[str, Float[Tensor, "N N"]], unit: str, title: str) -> Figure:
    """The same matrix for several settings, on one scale."""
    high = max(float(matrix.max()) for matrix in targets.values())
    side, gap = 1.75, 0.15
    width = 0.3 + len(targets) * (side + gap)
    with canvas(width + SCALE, HEADING + side + 0.65) as figure:
        heading(figure, title)
        for number, (name, matrix) in enumerate(targets.items()):
            ax = add_axes(figure, 0.3 + number * (side + gap), HEADING + 0.25, side, side)
            ax.imshow(matrix.cpu().numpy(), cmap=HEAT, vmin=0, vmax=high, interpolation="nearest", aspect="auto")
            ax.set_title(name, pad=4)
            ax.set_xticks([])
            ax.set_yticks([])
            _label_axes(ax, "text", "" if number else "view")
        scale_bar(figure, width, HEADING + 0.25, side, scale_marks((0.0, high)), unit)
    return figure


def _limits(values: Tensor) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, max(high, low + 1e-6)


def _label_axes(ax: Axes, below: str, beside: str) -> None:
    """Name both axes, without ticks and frame."""
    ax.set_xlabel(below)
    ax.set_ylabel(beside)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
