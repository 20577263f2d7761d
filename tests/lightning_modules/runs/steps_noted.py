"""A callback that notes at every step with which settings it is made, for tests of what a run's record says."""

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
