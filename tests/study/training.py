"""Runs of the mini-study: each in a process of its own, done once, measured, kept in a folder that rows share which
train alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from tests.study.rows import ROOT, Run, Study, words

PROGRAM = (sys.executable, "-m", "lightning_modules")
MEASURE = (sys.executable, str(ROOT / "tests" / "study" / "measure.py"))
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--data.num_workers", "0")
FEW = (
    "--trainer.max_steps",
    "16",
    "--images.every_n_steps",
    "0",
    "--trainer.callbacks+",
    "tests.study.step_cost.StepCost",
)
SHARDS = Path("flickr8k", "train")  # in the folder of a study's runs
_one_at_a_time: defaultdict[Path, Lock] = defaultdict(Lock)  # by the folder of a run


def fit(configs: Sequence[str], folder: Path, given: list[str], threads: int | None) -> dict[str, Any]:
    """Train, unless ``folder`` holds what this very command gave; the record of the run.

    Raises:
        RuntimeError: where training failed; it names the log.
    """
    given = ["fit", *(word for config in configs for word in ("--config", config)), *given]
    place = ["--runs", str(folder.parent), "--name", folder.name]
    read = [yaml.safe_load((ROOT / config).read_text(encoding="utf-8")) for config in configs]
    asked = {"command": given, "configs": read}
    record = folder / "study.json"
    if record.is_file() and asked.items() <= (done := json.loads(record.read_text(encoding="utf-8"))).items():
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    _run([*PROGRAM, *given, *place], folder / "log.txt", threads)
    done = {**asked, "seconds": round(time.perf_counter() - start)}
    record.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done


def start_numbers(study: Study, out: Path) -> dict[str, float] | None:
    """The numbers of the model that a study's rows start from; None where they train from scratch."""
    if study.start is None:
        return None
    return _measured(study, study.start, out / study.start, threads=None)


def fine_tune(run: Run, out: Path, root: Path | None = None) -> dict[str, Any]:
    """Train one row with one seed, and measure it on the study's scenes, or by its benchmarks under ``root``."""
    folder = run.folder(out)
    with _one_at_a_time[folder]:  # another row may train alike
        done = fit(run.configs(), folder, _words(run, out), threads=1)
        model = str(folder / "checkpoints" / "last.ckpt")
        return done | {"numbers": _measured(run.study, model, folder, threads=1, root=root)}


def step_cost(run: Run, out: Path) -> float:
    """Seconds of processor time of a training step of a row, by a run of a few steps."""
    folder = out / "cost" / run.folder(out).name
    fit(run.configs(), folder, [*_words(run, out), *FEW], threads=1)
    return json.loads((folder / "cost.json").read_text(encoding="utf-8"))["seconds_of_a_step"]


def prepare_photographs(out: Path, root: Path) -> None:
    """Shards of Flickr8k's training images, in ``out``."""
    shards = out / SHARDS
    if not (shards / "manifest.json").is_file():
        release = ("--images", str(root / "flickr8k/Flicker8k_Dataset"), "--annotations", str(root / "flickr8k"))
        shards.parent.mkdir(parents=True, exist_ok=True)
        command = [*PROGRAM, "prepare", "flickr8k", *release, "--split", "train", "--out", str(shards)]
        _run(command, out / "prepare.txt", None)


def _words(run: Run, out: Path) -> list[str]:
    """A row's settings as words of a command; where it trains on photographs, with their place."""
    shards = ["--data.shards", str(out / SHARDS)] if run.study.of_photographs else []
    return [*words(run.fields()), *QUIET, *shards]


def _measured(
    study: Study, model: str, folder: Path, threads: int | None, root: Path | None = None
) -> dict[str, float]:
    """A model's numbers on the study's scenes, or by its benchmarks under ``root``, which ``folder`` keeps."""
    numbers = folder / f"{study.split}_{study.scenes_seed}.json"
    if study.of_photographs:
        numbers = folder / "measured" / "benchmarks.json"  # a run's own folder is the run's alone
    if not numbers.is_file():
        numbers.parent.mkdir(parents=True, exist_ok=True)
        command = [*MEASURE, "--split", study.split, "--seed", str(study.scenes_seed), model]
        if study.of_photographs:
            given = ("--benchmark", ",".join(study.benchmarks), "--root", str(root), "--fit", "squash")
            command = [*PROGRAM, "evaluate", "--model", model, *given]
        _run([*command, "--out", str(numbers)], folder / "log.txt", threads)
    return json.loads(numbers.read_text(encoding="utf-8"))["numbers"]


def _run(command: Sequence[str], log: Path, threads: int | None) -> None:
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with log.open("a", encoding="utf-8") as lines:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=lines, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise RuntimeError(f"{' '.join(command[1:4])} failed with status {code}: see {log}")
