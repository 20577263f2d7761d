"""Callbacks for tests of runs: one notes at every step with which settings it is made, one holds a step up."""

from __future__ import annotations

import json
import time
from pathlib import Path

from lightning import Callback

from lightning_modules.runs.keeper import RunKeeper


class StepsNoted(Callback):
    """A line of JSON for every step in ``file``; each step takes at least ``pause`` seconds."""

    def __init__(self, file: str, pause: float = 0.0) -> None:
        self.file, self.pause = Path(file), pause

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        time.sleep(self.pause)
        keeper = next(one for one in trainer.callbacks if isinstance(one, RunKeeper))
        towers = next(group for group in optimizer.param_groups if group["name"] == "towers")
        line = {
            "run": keeper.decision.run,
            "step": trainer.global_step + 1,
            "model.optim.lr": towers["initial_lr"],
            "model.optim.weight_decay": towers["weight_decay"],
            "model.beta": pl_module.beta_cal.beta,
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Waits(Callback):
    """Before step number ``step`` says so, and waits until there is ``file``."""

    def __init__(self, file: str, step: int) -> None:
        self.file, self.step = Path(file), step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step + 1 == self.step:
            print(f"waiting before step {self.step}", flush=True)
            while not self.file.exists():
                time.sleep(0.01)
