"""Boxes on an image, each with the class that the model predicts. Right ones are blue and solid, wrong ones orange and
dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from eval.drawing.canvas import COLOURS, HEADING, RIGHT, WRONG, canvas, frame, heading, show, write
from eval.drawing.words import short

SIDE, WORDS, LINE, FOOT, GAP = 3.0, 3.6, 0.26, 0.42, 0.1  # inches


class PredictedBox(NamedTuple):
    """A box in fractions of the image, the predicted name, and the right names, empty where they are not known."""

    box: tuple[float, float, float, float]
    predicted: str = ""
    truth: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """True if the name is one of the right ones."""
        return self.predicted in self.truth


def boxes_figure(image: Image.Image, boxes: Sequence[PredictedBox], title: str) -> Figure:
    """Numbered boxes, and beside the image a line for each number."""
    below = max(SIDE, LINE * len(boxes))
    with canvas(SIDE + WORDS, HEADING + below + FOOT) as figure:
        heading(figure, title)
        show(figure, image, GAP, HEADING, SIDE, SIDE)
        for number, box in enumerate(boxes):
            _draw_box(figure, box, number)
            top = HEADING + (number + 0.5) * LINE
            write(figure, _line(box, number), SIDE + 3 * GAP, top, color=_colour(box), va="center", fontsize=8.5)
        if any(box.truth for box in boxes):
            right = Line2D([], [], color=RIGHT, linestyle="-", linewidth=2)
            wrong = Line2D([], [], color=WRONG, linestyle="--", linewidth=2)
            figure.legend([right, wrong], ["right", "wrong"], loc="lower left", ncols=2, frameon=False)
    return figure


def _draw_box(figure: Figure, box: PredictedBox, number: int) -> None:
    x0, y0, x1, y1 = (SIDE * v for v in box.box)
    left, top = GAP + x0, HEADING + y0
    style = "-" if box.right or not box.truth else "--"
    frame(figure, left, top, x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=3.2)
    frame(figure, left, top, x1 - x0, y1 - y0, fill=False, edgecolor=_colour(box), linewidth=1.8, linestyle=style)
    plate = {"facecolor": _colour(box), "edgecolor": "none", "pad": 1.2}
    write(figure, str(number + 1), left + 0.03, top + 0.03, color="white", fontsize=8, va="top", bbox=plate)


def _line(box: PredictedBox, number: int) -> str:
    if not box.truth:
        return f"{number + 1}  not named"
    if box.right:
        return f"{number + 1}  ✓ {short(box.predicted, 40)}"
    return f"{number + 1}  ✗ {short(box.predicted, 22)}  (is: {short(box.truth[0], 22)})"


def _colour(box: PredictedBox) -> str:
    if not box.truth:
        return COLOURS[-1]
    return RIGHT if box.right else WRONG
