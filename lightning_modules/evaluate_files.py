"""What ``lightning evaluate`` writes: JSON, Markdown, LaTeX, Parquet, TensorBoard; and two models side by side."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from torch.utils.tensorboard.writer import SummaryWriter

from eval.benchmark import Result
from eval.compare import Difference, differences, intervals
from eval.item_files import write_items
from eval.report import latex, markdown, write_json
from eval.retention import retention

logger = logging.getLogger("grainclip")
HEAD = ("number", "first", "second", "difference", "95 % interval", "p")


class Evaluation(NamedTuple):
    """What one model has scored so far."""

    source: str
    settings: dict[str, Any]
    results: dict[str, Result]

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers, by names that begin with the benchmark's."""
        return {name: number for result in self.results.values() for name, number in result.numbers.items()}


class Comparison(NamedTuple):
    """The second model beside the first: numbers of both, differences where there are items, and retention."""

    first: Evaluation
    second: Evaluation
    differences: dict[str, Difference]
    retention: dict[str, float]

    def rows(self) -> list[tuple[str, ...]]:
        """Text for a table, ``HEAD``'s columns."""
        found, before, after = [], self.first.numbers, self.second.numbers
        for name, d in self.differences.items():
            cells = (before[name], after[name], d.size)
            span = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
            found.append((name, *(f"{100 * cell:.2f}" for cell in cells), span, f"{d.p:.2g}"))
        blank = ("", "", "", "")
        return [*found, *((name, f"{100 * share:.2f}", *blank) for name, share in self.retention.items())]

    @property
    def title(self) -> str:
        """Whose numbers they are."""
        return f"{self.second.source} beside {self.first.source}, in percent"

    def table(self) -> Table:
        """For the terminal."""
        drawn = Table(title=self.title, title_justify="left")
        for column in HEAD:
            drawn.add_column(column, justify="left" if column == "number" else "right", overflow="fold")
        for row in self.rows():
            drawn.add_row(*row)
        return drawn


def compare(first: Evaluation, second: Evaluation, draws: int) -> Comparison:
    """Two models on the same benchmarks. Raises ValueError where they were not asked the same items."""
    found: dict[str, Difference] = {}
    for name, result in first.results.items():
        for table, items in result.items.items():
            found |= differences(items, second.results[name].items[table], max(draws, 1))
    kept: dict[str, float] = {}
    try:
        kept = retention(first.numbers, second.numbers)
    except ValueError as error:  # the differences can be told all the same
        logger.warning("no retention: %s", error)
    return Comparison(first, second, found, kept)


class Folder:
    """Where the files go.

    Args:
        out: a folder, made where it is missing; or a ``.json`` file for numbers and settings alone; or None.
        models: how many models are evaluated; each of several has a folder of its own.
        items: whether Parquet files are written.
        draws: of the bootstrap, for intervals in the JSON; 0 for none.
        tensorboard: folder for scalars, or None.
    """

    def __init__(self, out: Path | None, models: int, items: bool, draws: int, tensorboard: Path | None) -> None:
        if out is not None and not out.absolute().parent.is_dir():
            raise FileNotFoundError(f"--out must lie in a folder that exists, got {out}")
        self.file = out is not None and out.suffix == ".json"
        if self.file and models > 1:
            raise ValueError(f"--out must be a folder where several models are compared, got {out}")
        if items and (out is None or self.file):
            raise ValueError(f"--items writes into the folder --out, got {out}")
        if draws < 0:
            raise ValueError(f"--bootstrap must be at least 0, got {draws}")
        self.out, self.models, self.items, self.draws, self.tensorboard = out, models, items, draws, tensorboard

    def writer(self, number: int, source: str) -> Callable[[Evaluation], None]:
        """What writes the files of model ``number``, anew after each benchmark."""
        own = f"{number + 1}_{re.sub(r'[^0-9A-Za-z._-]+', '_', source)[-60:]}" if self.models > 1 else ""

        def write(found: Evaluation) -> None:
            numbers = found.numbers
            if self.tensorboard is not None:
                _scalars(self.tensorboard / own, numbers, int(found.settings["model"].get("steps", 0)))
            if self.out is None:
                return
            said = {**found.settings, "intervals": self._intervals(found.results)} if self.draws else found.settings
            if self.file:
                write_json(self.out, numbers, said)
                return
            folder = self.out / own
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "results.json", numbers, said)
            (folder / "results.md").write_text(markdown(numbers), encoding="utf-8")
            (folder / "results.tex").write_text(latex(numbers), encoding="utf-8")
            if self.items:
                last = list(found.results.values())[-1]
                write_items(folder / "items", last.items)

        return write

    def write_comparison(self, comparison: Comparison, number: int) -> None:
        """``comparison_N.json`` and ``.md`` in the folder, N the second model's ``number``."""
        if self.out is None:
            return
        self.out.mkdir(exist_ok=True)
        numbers = {
            f"{name}/{part}": value
            for name, difference in comparison.differences.items()
            for part, value in difference._asdict().items()
        }
        said = {"first": comparison.first.source, "second": comparison.second.source}
        write_json(self.out / f"comparison_{number}.json", numbers | comparison.retention, said)
        lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *comparison.rows()]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        (self.out / f"comparison_{number}.md").write_text(f"{comparison.title}\n\n{text}\n", encoding="utf-8")

    def _intervals(self, results: Mapping[str, Result]) -> dict[str, list[float]]:
        return {
            name: list(interval)
            for result in results.values()
            for items in result.items.values()
            for name, interval in intervals(items, self.draws).items()
        }


def _scalars(folder: Path, numbers: Mapping[str, float], step: int) -> None:
    with SummaryWriter(str(folder)) as writer:
        for name, number in numbers.items():
            writer.add_scalar(f"evaluate/{name}", number, step)
