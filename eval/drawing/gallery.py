"""Retrieval examples: a query and its best candidates, with a blue frame and a tick for hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from eval.drawing.canvas import HEADING, RIGHT, canvas, frame, heading, show, write
from eval.drawing.words import wrapped

SIDE, ROW, WORDS, GAP = 1.4, 1.75, 2.5, 0.1  # inches of an image, of a row, of a text beside, between images


class TopCandidates(NamedTuple):
    """The candidates of one query, the best first: their numbers, cosines, and whether each is right."""

    candidates: list[int]
    cosines: list[float]
    hits: list[bool]


def images_for_texts(
    texts: Sequence[str], images: Mapping[int, Image.Image], rankings: Sequence[TopCandidates], title: str
) -> Figure:
    """A row per text: the text, then its best images; ``images`` are given by number."""
    most = max(len(ranking.candidates) for ranking in rankings)
    with canvas(WORDS + most * (SIDE + GAP) + GAP, HEADING + len(texts) * ROW + GAP) as figure:
        heading(figure, title)
        for row, (text, ranking) in enumerate(zip(texts, rankings, strict=True)):
            top = HEADING + row * ROW + ROW - SIDE - GAP
            write(figure, wrapped(text, 38, 9), GAP, top + SIDE / 2, va="center", fontsize=7.5)
            for column, (number, cosine, hit) in enumerate(zip(*ranking, strict=True)):
                left = WORDS + column * (SIDE + GAP)
                show(figure, images[number], left, top, SIDE, SIDE)
                _draw_frame(figure, left, top, cosine, hit)
    return figure


def texts_for_images(
    images: Sequence[Image.Image], texts: Mapping[int, str], rankings: Sequence[TopCandidates], title: str
) -> Figure:
    """A row per image: the image, then its best texts; ``texts`` are given by number."""
    with canvas(SIDE + 6.1, HEADING + len(images) * ROW + GAP) as figure:
        heading(figure, title)
        for row, (image, ranking) in enumerate(zip(images, rankings, strict=True)):
            top = HEADING + row * ROW
            show(figure, image, GAP, top + (ROW - SIDE) / 2, SIDE, SIDE)
            for position, (number, cosine, hit) in enumerate(zip(*ranking, strict=True)):
                line = f"{'✓' if hit else '   '} {cosine:.2f}  {wrapped(texts[number], 92, 2)}"
                box = {"edgecolor": RIGHT, "facecolor": "none", "pad": 1.6, "linewidth": 1.4} if hit else None
                at = top + GAP / 2 + (position + 0.5) * (ROW - GAP) / len(ranking.candidates)
                write(figure, line, SIDE + 4 * GAP, at, va="center", fontsize=7.5, bbox=box, linespacing=1.1)
    return figure


def _draw_frame(figure: Figure, left: float, top: float, cosine: float, hit: bool) -> None:
    colour = RIGHT if hit else "black"
    words = f"{cosine:.2f}{' ✓' if hit else ''}"
    write(figure, words, left + SIDE / 2, top - 0.05, color=colour, ha="center", va="bottom", fontsize=8.5)
    look = {"edgecolor": RIGHT, "linewidth": 3.5} if hit else {"edgecolor": "#bbbbbb", "linewidth": 0.8}
    frame(figure, left, top, SIDE, SIDE, fill=False, **look)
