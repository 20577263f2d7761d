"""``make study``: the methods' claims in miniature, on the embedded data, from the files in ``configs/study``.

All rows of a study start from the same model, trained first and exported, and are fine-tuned by the same steps with
each seed. Runs go side by side, one thread each, so that a row and a seed give the same numbers on any number of cores.
A finished run is never done again, unless its command or the method's config has changed; one that was broken off
starts anew. ``runs/study`` holds the runs, ``results.json`` with all numbers and ``results.md`` with the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "configs" / "study"
PROGRAM = (sys.executable, "-m", "lightning_modules")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--data.workers", "0")


class Study(NamedTuple):
    """One file of ``configs/study``."""

    name: str
    start: dict[str, Any]  # the model that all rows start from: its name, its config and fields
    config: str  # of the method
    settings: dict[str, Any]  # fields of every row
    rows: dict[str, dict[str, Any]]  # fields of each; ``config`` is another file in place of the study's
    columns: dict[str, str]  # headings, and names of the numbers below them


class Run(NamedTuple):
    """One row with one seed."""

    study: Study
    row: str
    seed: int

    def config(self) -> str:
        """The method's file."""
        return self.study.rows[self.row].get("config", self.study.config)

    def fields(self) -> dict[str, Any]:
        """What is set beside it, the seed included."""
        own = {key: value for key, value in self.study.rows[self.row].items() if key != "config"}
        return self.study.settings | own | {"seed_everything": self.seed, "data.seed": self.seed}

    def folder(self, out: Path) -> Path:
        """Where it is written."""
        return out / self.study.name / re.sub(r"\W+", "_", self.row).strip("_") / str(self.seed)


def read_study(name: str) -> Study:
    """The study of this name.

    Raises:
        FileNotFoundError: where there is none; it names those there are.
    """
    file = STUDIES / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no study {name!r}; there are {', '.join(all_studies())}")
    return Study(name, **yaml.safe_load(file.read_text(encoding="utf-8")))


def all_studies() -> list[str]:
    """Names of the studies."""
    return sorted(file.stem for file in STUDIES.glob("*.yaml"))


def fields(values: dict[str, Any]) -> list[str]:
    """Fields as words of a command line."""
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [word for key, value in text.items() for word in (f"--{key}", value)]


def fit(config: str, folder: Path, words: list[str], threads: int | None) -> dict[str, Any]:
    """Train in a process of its own, unless ``folder`` holds what this very command gave; its results and seconds.

    Raises:
        RuntimeError: where training failed; it names the log.
    """
    words = ["fit", "--config", config, *words]
    place = ["--trainer.logger.init_args.save_dir", str(folder.parent), "--trainer.logger.init_args.name", folder.name]
    asked = {"command": words, "config": yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))}
    record = folder / "run.json"
    if record.is_file() and asked.items() <= (done := json.loads(record.read_text(encoding="utf-8"))).items():
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, start = folder / "log.txt", time.perf_counter()
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with log.open("w", encoding="utf-8") as lines:
        code = subprocess.run(
            [*PROGRAM, *words, *place], cwd=ROOT, env=environment, stdout=lines, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise RuntimeError(f"training failed with status {code}: see {log}")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    done = {**asked, "seconds": round(time.perf_counter() - start), **results}
    record.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done


def trained_start(study: Study, out: Path) -> tuple[dict[str, Any], Path]:
    """Train and export the model that a study's rows start from: its results, and the folder of its weights."""
    start = study.start
    folder, weights = out / start["name"], out / f"{start['name']}-exported"
    done = fit(start["config"], folder, [*fields(start["settings"]), *QUIET], threads=None)
    if not weights.is_dir() or weights.stat().st_mtime < (folder / "run.json").stat().st_mtime:
        shutil.rmtree(weights, ignore_errors=True)
        checkpoint = str(folder / "checkpoints" / "last.ckpt")
        subprocess.run([*PROGRAM, "export", checkpoint, str(weights)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return done, weights


def fine_tune(run: Run, out: Path, weights: Path) -> dict[str, Any]:
    """Train one row with one seed."""
    words = ["--model.init_args.pretrained", str(weights), *fields(run.fields()), *QUIET]
    return fit(run.config(), run.folder(out), words, threads=1)


def cell(numbers: list[float]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    percent = [100 * number for number in numbers]
    return f"{mean(percent):.1f} ± {stdev(percent):.1f}" if len(percent) > 1 else f"{percent[0]:.1f}"


def markdown(study: Study, start: dict[str, Any], done: dict[str, list[dict[str, Any]]]) -> str:
    """A study's table; its first line is the model that all rows start from."""
    lines = [f"| {study.name} | {' | '.join(study.columns)} |", f"|---|{'---|' * len(study.columns)}"]
    for row, runs in {"what all start from": [start], **done}.items():
        found = [[run["numbers"][name] for run in runs if name in run["numbers"]] for name in study.columns.values()]
        lines.append(f"| {row} | {' | '.join(cell(numbers) if numbers else '–' for numbers in found)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(all_studies())} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each row, from 0 (default: 3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: one a core)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder (default: runs/study)")
    given = parser.parse_args()
    studies, out = [read_study(name) for name in given.studies or all_studies()], given.out.resolve()
    show = Console(soft_wrap=True).print
    starts = {}
    for study in studies:
        show(f"{study.name}: training what its rows start from, {study.start['name']}")
        starts[study.name] = trained_start(study, out)
    runs = [Run(study, row, seed) for study in studies for seed in range(given.seeds) for row in study.rows]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {s.name: {row: [] for row in s.rows} for s in studies}
    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [pool.submit(fine_tune, run, out, starts[run.study.name][1]) for run in runs]
        try:
            for number, (run, future) in enumerate(zip(runs, waiting, strict=True), start=1):
                found[run.study.name][run.row].append(done := future.result())
                show(f"{number}/{len(runs)}  {run.study.name}, {run.row}, seed {run.seed}: {done['seconds']} s")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    tables = "\n\n".join(markdown(study, starts[study.name][0], found[study.name]) for study in studies)
    (out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "results.md").write_text(tables + "\n", encoding="utf-8")
    show(f"\n{tables}\n\nwritten: {out / 'results.md'}, {out / 'results.json'}")


if __name__ == "__main__":
    main()
