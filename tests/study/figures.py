"""The mini-study's figures: rows against each other in two columns, and a column along a setting."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.drawing.canvas import COLOURS, HEADING, add_axes, canvas, heading
from tests.study.record import Numbers, Record
from tests.study.rows import Study
from tests.study.tables import values

MARKS = "osD^vP*X"
SIDE, LEGEND, LINE = 4.2, 2.6, 0.22  # inches: of a chart, of the names beside it, of one name


def draw(study: Study, wanted: dict[str, Any], record: Record) -> Figure:
    """One figure of a study: ``across`` two columns, or ``along`` a setting."""
    kind = _across if "across" in wanted else _along
    return kind(study, wanted, record)


def _spread(study: Study, column: str, record: Record, runs: list[Numbers]) -> tuple[float, float]:
    percent = values(study, column, runs, record.start)
    return mean(percent), stdev(percent) if len(percent) > 1 else 0.0


def _across(study: Study, wanted: dict[str, Any], record: Record) -> Figure:
    """Each row is a point: ``across`` is the column to the right and the one upwards."""
    right, up = wanted["across"]
    rows = record.with_start()
    with canvas(SIDE + 1.1 + LEGEND, HEADING + max(SIDE, LINE * len(rows)) + 0.6) as figure:
        heading(figure, wanted["title"])
        ax = add_axes(figure, 0.7, HEADING, SIDE, SIDE)
        for number, (row, runs) in enumerate(rows.items()):
            (x, x_spread), (y, y_spread) = (_spread(study, column, record, runs) for column in (right, up))
            colour, mark = COLOURS[number % len(COLOURS)], MARKS[number // len(COLOURS) * 3 % len(MARKS)]
            ax.errorbar(x, y, y_spread, x_spread, color=colour, marker=mark, label=row, linestyle="", elinewidth=0.8)
        _labels(ax, f"{right}, %", f"{up}, %")
        ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8, borderaxespad=0.0)
    return figure


def _along(study: Study, wanted: dict[str, Any], record: Record) -> Figure:
    """A chart for each of ``columns``, a line for each of ``lines``: the rows' names by the value of the setting."""
    columns = wanted["columns"]
    side = 2.4
    with canvas(0.2 + len(columns) * (side + 0.8), HEADING + side + 0.95) as figure:
        heading(figure, wanted["title"])
        for number, column in enumerate(columns):
            ax = add_axes(figure, 0.7 + number * (side + 0.8), HEADING + 0.1, side, side)
            for index, (name, points) in enumerate(wanted["lines"].items()):
                found = [_spread(study, column, record, record.rows[row]) for row in points.values()]
                ax.errorbar(
                    range(len(points)),
                    [value for value, _ in found],
                    [spread for _, spread in found],
                    color=COLOURS[index],
                    marker=MARKS[index],
                    label=name,
                    capsize=3,
                )
                ax.set_xticks(range(len(points)), [str(value) for value in points])
            _labels(ax, wanted["along"], f"{column}, %")
        handles, names = ax.get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _labels(ax: Axes, below: str, beside: str) -> None:
    ax.set_xlabel(below)
    ax.set_ylabel(beside)
    ax.grid(alpha=0.25)
