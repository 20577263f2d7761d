"""Curves over training steps: a colour for each run and a line style for each quantity; with a single run, each
quantity has a colour and a style.

So curves differ by more than colour, and both of two curves that coincide are visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from eval.drawing.canvas import COLOURS, HEADING, add_axes, canvas, heading
from eval.drawing.words import short

WIDTH, HEIGHT, LINE = 4.0, 2.1, 0.145  # inches of the figure, of the curves, of a line of the legend
LETTERS = 54  # of a line of the legend
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
Curve = Sequence[tuple[int, float]]  # step, value


def curves_figure(
    curves: Mapping[tuple[str, str], Curve], title: str, runs: Sequence[str] | None = None, percent: bool = False
) -> Figure:
    """One chart; ``curves`` are given by run and quantity.

    ``runs`` are all runs of a page, so that a run has the same colour in all charts, and legends name the run where
    there are several; None: the runs of ``curves``. ``percent`` shows fractions as percentages.
    """
    runs = list(dict.fromkeys(run for run, _ in curves)) if runs is None else runs
    quantities = list(dict.fromkeys(quantity for _, quantity in curves))
    above = HEADING + HEIGHT + 0.42  # the legend, inches
    height = above + 0.12 + LINE * len(curves)
    with canvas(WIDTH, height) as figure:
        heading(figure, title)
        ax = add_axes(figure, 0.75, HEADING, WIDTH - 0.95, HEIGHT)
        for (run, quantity), curve in curves.items():
            style = quantities.index(quantity)
            colour = runs.index(run) if len(runs) > 1 else style
            ax.plot(
                *zip(*curve, strict=True),
                color=COLOURS[colour % len(COLOURS)],
                linestyle=STYLES[(style + colour // len(COLOURS)) % len(STYLES)],
                marker="o" if len(curve) < 8 else None,
                markersize=3,
                linewidth=1.3,
                label=short(" · ".join(filter(None, [run if len(runs) > 1 else "", quantity])), LETTERS),
            )
        ax.set_xlabel("step")
        if percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.grid(alpha=0.25)
        place_of_legend = {"loc": "upper left", "bbox_to_anchor": (0, 1 - above / height)}
        figure.legend(**place_of_legend, frameon=False, fontsize=8, labelspacing=0.25, borderaxespad=0.2)
    return figure
