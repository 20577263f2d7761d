"""Numbers for people and for machines: a terminal table, Markdown, JSON.

A benchmark gives ``{"caption/text_to_image/R@1": 0.42, ...}``: fractions in [0, 1] and counts. The last part of a name
is a column, the rest a row; rows with the same columns share a table. Fractions are shown in percent, files keep them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

from datamodules.atomic_write import write_text

COUNTS = ("queries", "questions", "boxes", "pictures", "phrases")
COLUMNS = 6  # of a table in the terminal
LABEL = 26  # letters of a row's name that stay in a line
FRACTION = re.compile(r"(strict_)?R@\d+|(class_mean_)?top\d+|(\w+_)?accuracy|chance|ties|mean_IoU")


class Section(NamedTuple):
    """Rows that share their columns, all cells as text."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]  # label, then a cell per column


def sections(numbers: Mapping[str, float]) -> list[Section]:
    """``numbers`` grouped for display, in the order of their names."""
    rows: dict[str, dict[str, float]] = {}
    for name, number in numbers.items():
        row, _, column = name.rpartition("/")
        rows.setdefault(row, {})[column] = number
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row, cells in rows.items():
        label = row.replace("/", " · ").replace("_", " ")
        tables.setdefault(tuple(cells), []).append((label, *(_cell(c, n) for c, n in cells.items())))
    return [Section(tuple(c.replace("_", " ") for c in columns), lines) for columns, lines in tables.items()]


def narrow(section: Section) -> list[Section]:
    """The same columns in several tables, so that each fits a terminal."""
    starts = range(0, len(section.columns), COLUMNS)
    return [
        Section(section.columns[s : s + COLUMNS], [(row[0], *row[1 + s : 1 + s + COLUMNS]) for row in section.rows])
        for s in starts
    ]


def table(numbers: Mapping[str, float], title: str | None = None) -> Group:
    """For the terminal: ``rich.print(table(numbers))``."""
    tables = []
    for i, section in enumerate(part for whole in sections(numbers) for part in narrow(whole)):
        drawn = Table(title=title if i == 0 else None, title_justify="left")
        longest = max(len(row[0]) for row in section.rows)
        drawn.add_column("", overflow="fold", min_width=min(longest, LABEL))
        for column in section.columns:
            drawn.add_column(column, justify="right")
        for row in section.rows:
            drawn.add_row(*row)
        tables.append(drawn)
    return Group(*tables)


def markdown(numbers: Mapping[str, float]) -> str:
    """The same tables as GitHub Markdown."""
    tables = []
    for section in sections(numbers):
        lines = [("", *section.columns), ("---", *["---:"] * len(section.columns)), *section.rows]
        tables.append("\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines))
    return "\n\n".join(tables) + "\n"


def latex(numbers: Mapping[str, float]) -> str:
    """The same tables as LaTeX's ``tabular``; fractions in percent without its sign, as papers print them."""
    tables = []
    for section in sections(numbers):
        lines = [("", *section.columns), *section.rows]
        rows = [" & ".join(_escaped(cell).removesuffix(r"\%") for cell in line) + r" \\" for line in lines]
        head = rf"\begin{{tabular}}{{l{'r' * len(section.columns)}}}"
        tables.append("\n".join([head, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(tables) + "\n"


def _escaped(cell: str) -> str:
    return re.sub(r"([%&_#$])", r"\\\1", cell).replace("·", r"$\cdot$")


def write_json(path: str | os.PathLike[str], numbers: Mapping[str, float], settings: Mapping[str, Any]) -> None:
    """Write ``{"numbers": ..., "settings": ...}`` in one step: the file is whole or not there.

    ``settings`` is whatever is needed to read the numbers (model, data, preprocessing).
    Raises ValueError for a number that is not finite.
    """
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
    write_text(path, json.dumps({"numbers": dict(numbers), "settings": dict(settings)}, indent=2) + "\n")


def _cell(column: str, number: float) -> str:
    if column in COUNTS:
        return f"{number:.0f}"
    if not FRACTION.fullmatch(column):
        return f"{number:.4g}"
    return f"{100 * number:.1f}%" if number == 0 or number >= 0.001 else f"{100 * number:.1g}%"
