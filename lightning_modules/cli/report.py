"""``lightning report``: runs side by side in one web page that can be mailed: curves, numbers, images, settings."""

from __future__ import annotations

import io
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from datamodules.atomic_write import write_text
from eval.drawing.canvas import svg
from eval.drawing.curves import curves_figure
from eval.drawing.page import card, cards, contents, heading, image, page, table
from eval.results.tables import COUNTS, sections
from lightning_modules.boards.layout import LAYOUT, is_fraction
from lightning_modules.boards.run_logs import RunFiles, read_run
from lightning_modules.cli.output_paths import make_room
from lightning_modules.errors import fail

COLUMN = 700  # pixels: wider images have a row for themselves
ASIDE = ("chance", "ties", *COUNTS)  # columns that only explain others


def report_page(runs: Sequence[RunFiles]) -> str:
    """The page: numbers, curves, images and settings, as far as the runs have them."""
    parts = {
        title: part for title, part in chain(_numbers(runs), _curves(runs), _images(runs), _settings(runs)) if part
    }
    note = Markup('<p class="note">Runs: {}</p>').format(", ".join(run.name for run in runs))
    blocks = [html for title, part in parts.items() for html in (heading(title), part)]
    return page("Training report", Markup("\n").join([note, contents(parts), *blocks]))


Part = tuple[str, Markup]  # a title and the HTML below it


def _numbers(runs: Sequence[RunFiles]) -> Iterator[Part]:
    """The numbers of the last validation; what only explains them is folded away."""
    cells = [dict(_cells(run)) for run in runs]
    names = list(dict.fromkeys(name for run_cells in cells for name in run_cells))
    if not names:
        return
    head = ["", *(run.name for run in runs)]
    rows = [[" · ".join(name), *(run_cells.get(name, "–") for run_cells in cells)] for name in names]
    main = [row for row, name in zip(rows, names, strict=True) if name[-1] not in ASIDE]
    rest = [row for row, name in zip(rows, names, strict=True) if name[-1] in ASIDE]
    folded = _folded("chance, ties, counts", table(head, rest)) if rest else ""
    yield "Last validation", Markup("{}\n{}").format(table(head, main), folded)


def _cells(run: RunFiles) -> Iterator[tuple[tuple[str, str], str]]:
    for section in sections(run.numbers):
        for label, *cells in section.rows:
            yield from (((label, column), cell) for column, cell in zip(section.columns, cells, strict=True))


def _curves(runs: Sequence[RunFiles]) -> Iterator[Part]:
    """The charts of TensorBoard's layout that have curves."""
    names = [run.name for run in runs]
    for group, charts in LAYOUT.items():
        drawn = []
        for title, (_, patterns) in charts.items():
            regex = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
            curves = {(run.name, tag): curve for run in runs for tag, curve in run.scalars.items() if regex.match(tag)}
            if curves:
                chart = curves_figure(curves, title, names, percent=all(is_fraction(tag) for _, tag in curves))
                drawn.append(Markup("<figure>{}</figure>").format(image(svg(chart), f"curves: {title}", "svg+xml")))
        if drawn:
            yield group.capitalize(), cards(drawn, wide=True)


def _images(runs: Sequence[RunFiles]) -> Iterator[Part]:
    """The last image of each tag, runs beside each other; a part for each kind of image."""
    tags = list(dict.fromkeys(tag for run in runs for tag in run.images))
    for kind in dict.fromkeys(tag.partition("/")[0] for tag in tags):
        kind_tags = [tag for tag in tags if tag.partition("/")[0] == kind]
        drawn = [_image(tag, run) for tag in kind_tags for run in runs if tag in run.images]
        yield f"Images: {kind}", cards(drawn, wide=True)


def _image(tag: str, run: RunFiles) -> Markup:
    """An image as a card; a wide one takes a whole row, so that its text stays readable."""
    step, png = run.images[tag]
    with Image.open(io.BytesIO(png)) as opened:
        room = "row" if opened.width > COLUMN else "column"
    return card(image(png, tag), f"{tag} · {run.name}, step {step}", room, whole=True)


def _settings(runs: Sequence[RunFiles]) -> Iterator[Part]:
    """The settings in which the runs differ; all others folded away."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    if not names:
        return
    head = ["setting", *(run.name for run in runs)]
    rows = {name: [run.config.get(name, "–") for run in runs] for name in names}
    differing = [[name, *values] for name, values in rows.items() if len(set(values)) > 1]
    same = [[name, values[0]] for name, values in rows.items() if len(set(values)) == 1]
    differences = table(head, differing, numbers=False) if differing else ""
    if len(runs) > 1 and not differing:
        differences = Markup("<p>The runs have the same settings.</p>")
    summary = f"{len(same)} settings{' that are the same' if len(runs) > 1 else ''}"
    folded = _folded(summary, table(["setting", ""], same, numbers=False)) if same else ""
    yield f"Settings{' that differ' if len(runs) > 1 else ''}", Markup("{}\n{}").format(differences, folded)


def _folded(summary: str, inside: Markup) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, inside)


def run(args: Namespace) -> int:
    """The command; ``SystemExit(2)`` with one line on bad input."""
    try:
        make_room(args.out, "--out")
        runs = [read_run(folder, name) for folder, name in zip(args.runs, _names(args.runs), strict=True)]
        write_text(args.out, report_page(runs))
    except (ValueError, OSError) as error:
        fail(str(error))
    sys.stdout.write(f"written: {args.out}\n")
    return 0


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' paths below their common parent."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"a run must be named once, got {', '.join(map(str, folders))}")
    shared = Path(os.path.commonpath([folder.parent for folder in resolved]))
    return [str(folder.relative_to(shared)) for folder in resolved]
