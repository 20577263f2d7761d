"""Two minutes of ``make base``, by the command, at full speed: images a second, and how long data were waited for.

A fifth of its scenes, so that writing them takes seconds; in all else the config as it stands, in the precision that is
fastest here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.cli.precision import best_precision
from tests.gpu.row import Row

ROOT = Path(__file__).resolve().parents[2]
FULL = ("--data.scenes.train", "20000", "--trainer.max_time", "00:00:02:00")
MINIATURE = (
    *("--data.scenes.train", "64", "--data.scenes.dev", "16", "--data.scenes.held_out", "16"),
    *("--data.batch_size", "16", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "2"),
)


def rows(device: torch.device) -> list[Row]:
    """The one row."""
    return [Row("base/two minutes", partial(row, device))]


def row(device: torch.device) -> dict[str, Any]:
    """Train, and read what the run logged."""
    on_gpu = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "lightning_modules", "fit", "--config", str(ROOT / "configs" / "base.yaml")),
            *(FULL if on_gpu else MINIATURE),
            *("--trainer.precision", best_precision(device.type), "--trainer.enable_progress_bar", "false"),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError((finished.stderr or finished.stdout).strip().splitlines()[-1])
        logged = EventAccumulator(str(Path(folder) / "runs" / "base"))
        logged.Reload()
        tags = logged.Tags()["scalars"]

        def last(tag: str) -> float | None:
            return logged.Scalars(tag)[-1].value if tag in tags else None

        return {
            "steps": logged.Scalars("train/loss")[-1].step + 1,
            "images_per_second": last("throughput/images_per_second"),
            "data_wait_fraction": last("throughput/data_wait_fraction"),
            "mfu": last("throughput/mfu"),
            "loss": last("train/loss"),
        }
