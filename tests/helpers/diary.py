"""A log of the samples of every rank, step by step, for tests that stop a run from outside."""

from __future__ import annotations

import json
import time
from pathlib import Path

from lightning import Callback


class Diary(Callback):
    """A line of JSON for every batch, in a file of ``folder`` for each rank; each takes at least ``pause`` seconds."""

    def __init__(self, folder: str, pause: float = 0.0) -> None:
        self.folder, self.pause = Path(folder), pause

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(self.pause)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = {"step": trainer.global_step, "loss": outputs["loss"].item(), "keys": list(batch.keys)}
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def diary(folder: Path, ranks: int) -> list[dict]:
    """The batches of all ranks together: the step's number, the samples in order, the mean loss."""
    files = [Path(folder, f"{rank}.jsonl") for rank in range(ranks)]
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [
        {
            "step": parts[0]["step"],
            "keys": [key for part in parts for key in part["keys"]],
            "loss": sum(part["loss"] for part in parts) / ranks,
        }
        for parts in zip(*lines, strict=True)
    ]


def wait_for(folder: Path, lines: int, seconds: float = 240.0) -> None:
    """Until rank 0 has written so many lines."""
    file, end = Path(folder, "0.jsonl"), time.monotonic() + seconds
    while not file.exists() or file.read_text().count("\n") < lines:
        if time.monotonic() > end:
            raise TimeoutError(f"{file} has not got {lines} lines")
        time.sleep(0.005)
