"""Numbers as a terminal table, Markdown, LaTeX and JSON.

A benchmark returns ``{"caption/text_to_image/R@1": 0.42, ...}``: fractions in [0, 1] and counts. The last part of a
name is the column, the rest the row; rows with the same columns share a table. Tables show fractions in percent; JSON
keeps the fractions.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from datamodules.atomic_write import write_text

COUNTS = ("queries", "questions", "boxes", "images", "phrases")
FRAME = 3  # characters around a cell of the terminal table
FRACTION = re.compile(r"(strict_)?R@\d+|(class_mean_)?top\d+|(\w+_)?accuracy|chance|ties|mean_IoU|rising|monotone")


class Section(NamedTuple):
    """Rows with the same columns, all cells as text."""

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


def side_by_side(numbers_by_column: Mapping[str, Mapping[str, float]]) -> Section:
    """The same numbers of several models: a row a number, a column a model."""
    models = list(numbers_by_column.values())
    rows = [
        (name.replace("/", " · ").replace("_", " "), *(_cell(name.rpartition("/")[2], m[name]) for m in models))
        for name in models[0]
    ]
    return Section(tuple(numbers_by_column), rows)


def narrow(section: Section, width: int) -> list[Section]:
    """Split the columns into as few tables as fit ``width`` characters, of about equal width, without cutting cells."""
    widths = [
        FRAME + max(cell_len(cell) for cell in column)
        for column in zip(section.columns, *(row[1:] for row in section.rows), strict=True)
    ]
    room = width - 1 - FRAME - _label_room(section, width)
    fewest = len(_split(widths, room))
    even = next((narrower for narrower in range(room) if len(_split(widths, narrower)) == fewest), room)
    return [
        Section(
            section.columns[part.start : part.stop],
            [(row[0], *row[1:][part.start : part.stop]) for row in section.rows],
        )
        for part in _split(widths, even)
    ]


def _split(widths: Sequence[int], room: int) -> list[range]:
    """Ranges of consecutive columns, each as long as ``room`` allows; a column wider than ``room`` is a range of its
    own.
    """
    starts, remaining = [], 0
    for number, width in enumerate(widths):
        if width > remaining or not starts:
            starts.append(number)
            remaining = room
        remaining -= width
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(widths)], strict=True)]


def _label_room(section: Section, width: int) -> int:
    """Characters for the rows' names: at most a third of ``width``, but enough for the longest word."""
    names = [row[0] for row in section.rows]
    longest = max(cell_len(name) for name in names)
    word = max((cell_len(word) for name in names for word in name.split()), default=0)
    return min(longest, max(width // 3, word))


class Tables:
    """Sections as terminal tables; columns that do not fit the width go into further tables below."""

    def __init__(self, all_sections: Sequence[Section], title: str | None = None) -> None:
        self.sections, self.title = all_sections, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = self.title
        for section in self.sections:
            for part in narrow(section, options.max_width):
                part_table = Table(title=title, title_justify="left")
                part_table.add_column("", overflow="fold", min_width=_label_room(part, options.max_width))
                for column in part.columns:
                    part_table.add_column(column, justify="right", overflow="fold")
                for row in part.rows:
                    part_table.add_row(*row)
                yield part_table
                title = None


def table(numbers: Mapping[str, float], title: str | None = None) -> Tables:
    """For the terminal: ``rich.print(table(numbers))``."""
    return Tables(sections(numbers), title)


def markdown(numbers: Mapping[str, float]) -> str:
    """The same tables as GitHub Markdown."""
    return "\n\n".join(section_markdown(section) for section in sections(numbers)) + "\n"


def section_markdown(section: Section) -> str:
    """One table as GitHub Markdown."""
    lines = [("", *section.columns), ("---", *["---:"] * len(section.columns)), *section.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def latex(numbers: Mapping[str, float]) -> str:
    """The same tables as LaTeX's ``tabular``; fractions in percent without the sign, as papers print them."""
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
    """Write ``{"numbers": ..., "settings": ...}`` atomically.

    ``settings`` documents the numbers (model, data, preprocessing).
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
