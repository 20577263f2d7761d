"""Measures the processor time of a training step, which other processes on the machine disturb less than the clock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

WARM_UP = 4  # steps that are not counted


class StepCost(Callback):
    """Writes ``cost.json`` beside the logs: the median step, from the batch's arrival to the weights' change."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._begin = 0.0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._begin = time.process_time()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seconds.append(time.process_time() - self._begin)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.log_dir is not None
        numbers = {"seconds_of_a_step": median(self._seconds[WARM_UP:]), "steps": len(self._seconds) - WARM_UP}
        Path(trainer.log_dir, "cost.json").write_text(json.dumps(numbers), encoding="utf-8")
