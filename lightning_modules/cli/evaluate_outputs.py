"""Output of ``lightning evaluate``: JSON, Markdown, LaTeX, Parquet, TensorBoard; and two models side by side."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.tensorboard.writer import SummaryWriter

from datamodules.atomic_write import write_text
from eval.interfaces import Result
from eval.metrics.retention import retention
from eval.results.compare import Difference, differences, intervals
from eval.results.per_item import write_items
from eval.results.tables import Section, Tables, latex, markdown, section_markdown, side_by_side, write_json
from lightning_modules.cli.output_paths import make_folder, make_room, not_a_run

logger = logging.getLogger("grainclip")
OPTIONS = ("fit", "captions", "rerank", "skip_missing")  # that change numbers, as results state them
HEAD = ("number", "first", "second", "difference", "95 % interval", "p")


class Evaluation(NamedTuple):
    """Results of one model so far."""

    source: str
    name: str  # of the model, short and fit for a folder
    settings: dict[str, Any]
    results: dict[str, Result]

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers, by names that begin with the benchmark's."""
        return {name: number for result in self.results.values() for name, number in result.numbers.items()}


class Comparison(NamedTuple):
    """A model compared with the first: numbers of both, differences where there are items, and retention."""

    first: Evaluation
    second: Evaluation
    differences: dict[str, Difference]
    retention: dict[str, float]

    def rows(self) -> list[tuple[str, ...]]:
        """Text for a table, ``HEAD``'s columns."""
        rows, before, after = [], self.first.numbers, self.second.numbers
        for name, d in self.differences.items():
            cells = (before[name], after[name], d.size)
            span = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
            rows.append((name, *(f"{100 * cell:.2f}" for cell in cells), span, f"{d.p:.2g}"))
        blank = ("", "", "", "")
        return [*rows, *((name, f"{100 * share:.2f}", *blank) for name, share in self.retention.items())]

    @property
    def title(self) -> str:
        """The name of the evaluated model."""
        return f"{self.second.name} beside {self.first.name}, in percent"

    def table(self) -> Tables:
        """For the terminal."""
        rows = [(name.replace("/", " · ").replace("_", " "), *cells) for name, *cells in self.rows()]
        return Tables([Section(HEAD[1:], rows)] if rows else [], self.title)


def compare(first: Evaluation, second: Evaluation, draws: int) -> Comparison:
    """Compare two models on the same benchmarks. Raises ValueError where they differ in their items."""
    difference_by_name: dict[str, Difference] = {}
    for name, result in first.results.items():
        for table, items in result.items.items():
            difference_by_name |= differences(items, second.results[name].items[table], max(draws, 1))
    retained: dict[str, float] = {}
    try:
        retained = retention(first.numbers, second.numbers)
    except ValueError as error:  # the differences are reported all the same
        logger.warning("no retention: %s", error)
    return Comparison(first, second, difference_by_name, retained)


class Earlier(NamedTuple):
    """The weights, options and benchmarks of results that are on disk."""

    sha256: str  # of the weights
    options: dict[str, Any]
    benchmarks: frozenset[str]


class Folder:
    """The output folder.

    Earlier results of the same model and settings stay until all their benchmarks are measured anew. Until then the new
    ones are in ``results.partial.json`` and its like.

    Args:
        out: a folder, made where it is missing; or a ``.json`` file for numbers and settings alone; or None.
        names: of the models that are evaluated; each of several has a folder called so.
        items: whether Parquet files are written.
        draws: of the bootstrap, for intervals in the JSON; 0 for none.
        tensorboard: folder for scalars, or None.

    Raises:
        ValueError: naming the option or file, where nothing could be written, or a file that would be replaced holds no
            results.
    """

    def __init__(
        self, out: Path | None, names: Sequence[str], items: bool, draws: int, tensorboard: Path | None
    ) -> None:
        self.file = out is not None and out.suffix == ".json"
        if self.file and len(names) > 1:
            raise ValueError(f"--out must be a folder where several models are compared, got {out}")
        if items and (out is None or self.file):
            raise ValueError(f"--items writes into the folder --out, got {out}")
        if draws < 0:
            raise ValueError(f"--bootstrap must be at least 0, got {draws}")
        if out is not None:
            not_a_run(out.parent if self.file else out, "--out")
        if self.file and out is not None:
            make_room(out, "--out")
        elif out is not None:
            make_folder(out, "--out")
        if tensorboard is not None:
            make_folder(tensorboard, "--tensorboard")
        self.out, self.names, self.items, self.draws, self.tensorboard = out, names, items, draws, tensorboard
        self.earlier = {name: earlier for name in names if (earlier := _earlier(self._results(name))) is not None}

    def _results(self, name: str) -> Path | None:
        """The JSON file of the model ``name``; None where nothing is written."""
        if self.out is None or self.file:
            return self.out
        return (self.out / name if len(self.names) > 1 else self.out) / "results.json"

    def check(self, evaluation: Evaluation, benchmarks: Collection[str]) -> None:
        """Raise ValueError where ``evaluation`` would overwrite results of another model, of other settings or of other
        benchmarks.
        """
        if (earlier := self.earlier.get(evaluation.name)) is None:
            return
        file, settings = self._results(evaluation.name), evaluation.settings
        origins = ["of another model"] if earlier.sha256 != settings["model"]["sha256"] else []
        origins += [_option(name, value) for name, value in earlier.options.items() if value != settings[name]]
        if lost := sorted(earlier.benchmarks - set(benchmarks)):
            origins.append(f"of {', '.join(lost)}, which are not asked for")
        if origins:
            raise ValueError(f"{file} holds results {origins[0]}: choose another --out")

    def writer(self, name: str) -> Callable[[Evaluation], None]:
        """A function that writes the files of the model ``name``; it is called after each benchmark."""
        subfolder = name if len(self.names) > 1 else ""
        before = self.earlier[name].benchmarks if name in self.earlier else frozenset[str]()
        unwritten: list[Result] = []  # whose items are not in files yet

        def write(evaluation: Evaluation) -> None:
            numbers, settings = evaluation.numbers, evaluation.settings
            if self.tensorboard is not None:
                _write_scalars(self.tensorboard / subfolder, numbers, int(settings["model"].get("steps", 0)))
            if (results := self._results(name)) is None:
                return
            if self.draws:
                settings = {**settings, "intervals": self._intervals(evaluation.results)}
            results.parent.mkdir(parents=True, exist_ok=True)
            partial = results.with_name(f"{results.stem}.partial.json")
            whole = before <= evaluation.results.keys()
            for file in self._write_numbers(results if whole else partial, numbers, settings):
                if whole:
                    file.with_name(f"{results.stem}.partial{file.suffix}").unlink(missing_ok=True)
            if self.items:
                unwritten.append(list(evaluation.results.values())[-1])
            if whole:
                for result in unwritten:
                    write_items(results.parent / "items", result.items)
                unwritten.clear()

        return write

    def _write_numbers(self, file: Path, numbers: dict[str, float], settings: dict[str, Any]) -> list[Path]:
        """Write the JSON ``file`` and, unless it is all that is asked for, Markdown and LaTeX beside it; the files."""
        write_json(file, numbers, settings)
        if self.file:
            return [file]
        tables = {file.with_suffix(".md"): markdown(numbers), file.with_suffix(".tex"): latex(numbers)}
        for path, text in tables.items():
            write_text(path, text)
        return [file, *tables]

    def write_comparison(self, comparison: Comparison) -> None:
        """Write ``comparison_SECOND_with_FIRST.json`` and ``.md`` into the folder, by the models' names."""
        if self.out is None:
            return
        file = f"comparison_{comparison.second.name}_with_{comparison.first.name}"
        numbers = {
            f"{name}/{part}": value
            for name, difference in comparison.differences.items()
            for part, value in difference._asdict().items()
        }
        sources = {"first": comparison.first.source, "second": comparison.second.source}
        write_json(self.out / f"{file}.json", numbers | comparison.retention, sources)
        lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *comparison.rows()]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        write_text(self.out / f"{file}.md", f"{comparison.title}\n\n{text}\n")

    def write_line(self, by_share: Mapping[str, Evaluation]) -> None:
        """Write ``interpolation.json`` and ``.md`` into the folder: all numbers by the share of the trained weights."""
        if self.out is None or self.file:
            return
        numbers = {f"{name}/{share}": value for share, e in by_share.items() for name, value in e.numbers.items()}
        model = next(iter(by_share.values())).settings["model"]
        write_json(self.out / "interpolation.json", numbers, {name: model[name] for name in ("source", "start")})
        section = side_by_side({share: evaluation.numbers for share, evaluation in by_share.items()})
        write_text(self.out / "interpolation.md", section_markdown(section) + "\n")

    def _intervals(self, results: Mapping[str, Result]) -> dict[str, list[float]]:
        return {
            name: list(interval)
            for result in results.values()
            for items in result.items.values()
            for name, interval in intervals(items, self.draws).items()
        }


def _earlier(file: Path | None) -> Earlier | None:
    """Read the head of an existing file of results. Raises ValueError where it is a file of another kind."""
    if file is None or not file.is_file():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
        weights, benchmarks = settings["model"]["sha256"], frozenset(settings["benchmarks"])
        return Earlier(weights, {name: settings.get(name) for name in OPTIONS}, benchmarks)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--out must not replace a file that holds no results of `lightning evaluate`, got {file}"
        ) from error


def _option(name: str, value: Any) -> str:
    """Words about an option of earlier results: "of --fit squash", "without --rerank"."""
    if value is None or value is False:
        return f"without --{name}"
    return f"of --{name}" if value is True else f"of --{name} {value}"


def _write_scalars(folder: Path, numbers: Mapping[str, float], step: int) -> None:
    with SummaryWriter(str(folder)) as writer:
        for name, number in numbers.items():
            writer.add_scalar(f"evaluate/{name}", number, step)
