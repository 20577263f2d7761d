"""Runs of the mini-study: each in a process of its own, done once, kept in a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.study.rows import ROOT, Run, Study, words

PROGRAM = (sys.executable, "-m", "lightning_modules")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--data.num_workers", "0")
FEW = ("--trainer.max_steps", "16", "--trainer.limit_val_batches", "0", "--images.every_n_steps", "0")


def fit(
    config: str, folder: Path, given: list[str], threads: int | None, result: str = "results.json"
) -> dict[str, Any]:
    """Train, unless ``folder`` holds what this very command gave; what it wrote as ``result``, and its seconds.

    Raises:
        RuntimeError: where training failed; it names the log.
    """
    given = ["fit", "--config", config, *given]
    place = ["--runs", str(folder.parent), "--name", folder.name]
    asked = {"command": given, "config": yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))}
    record = folder / "study.json"
    if record.is_file() and asked.items() <= (done := json.loads(record.read_text(encoding="utf-8"))).items():
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, start = folder / "log.txt", time.perf_counter()
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with log.open("w", encoding="utf-8") as lines:
        code = subprocess.run(
            [*PROGRAM, *given, *place], cwd=ROOT, env=environment, stdout=lines, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        raise RuntimeError(f"training failed with status {code}: see {log}")
    results = json.loads((folder / result).read_text(encoding="utf-8"))
    done = {**asked, "seconds": round(time.perf_counter() - start), **results}
    record.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return done


def trained_start(study: Study, out: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Train and export the model that a study's rows start from: its results, and the folder of its weights."""
    if (start := study.start) is None:
        return None, None
    folder, weights = out / start["name"], out / f"{start['name']}-exported"
    done = fit(start["config"], folder, [*words(start["settings"]), *QUIET], threads=None)
    if not weights.is_dir() or weights.stat().st_mtime < (folder / "study.json").stat().st_mtime:
        shutil.rmtree(weights, ignore_errors=True)
        checkpoint = str(folder / "checkpoints" / "last.ckpt")
        subprocess.run([*PROGRAM, "export", checkpoint, str(weights)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return done, weights


def fine_tune(run: Run, out: Path, weights: Path | None) -> dict[str, Any]:
    """Train one row with one seed."""
    return fit(run.config(), run.folder(out), _from(weights, run), threads=1)


def step_cost(run: Run, out: Path, weights: Path | None) -> float:
    """Seconds of processor time of a training step of a row, by a run of a few steps."""
    given = [*_from(weights, run), *FEW, "--trainer.callbacks+", "tests.study.step_cost.StepCost"]
    folder = out / run.study.name / "cost" / run.folder(out).parent.name
    return fit(run.config(), folder, given, threads=1, result="cost.json")["seconds_of_a_step"]


def _from(weights: Path | None, run: Run) -> list[str]:
    start = [] if weights is None else ["--model.init_args.pretrained", str(weights)]
    return [*start, *words(run.fields()), *QUIET]
