"""Progress of training as log lines, where no progress bar can be drawn: in a job's log file."""

from __future__ import annotations

import logging
import math
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console
from typing_extensions import override

from datamodules.batch import Batch

logger = logging.getLogger("grainclip")


class ConsoleLogger(Callback):
    """At the steps that are logged: step, loss, images a second over all ranks, time left; after a validation R@1.

    The first rank tells it, and only where the output is no terminal; there Lightning's bar is drawn.
    """

    def __init__(self) -> None:
        self._logged_step = -1  # the last step with a line
        self._images, self._mark = 0, 0.0  # since then
        self._first, self._begin, self._steps = 0, 0.0, math.inf  # where the run began, and how long it will be

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged_step = self._first = trainer.global_step
        self._steps = trainer.estimated_stepping_batches
        self._images, self._mark = 0, time.perf_counter()
        self._begin = self._mark

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.images) * trainer.world_size
        every, step = vars(trainer)["log_every_n_steps"], trainer.global_step
        if not every or step % every or step == self._logged_step or not _is_shown(trainer):
            return
        now = time.perf_counter()
        bounded = math.isfinite(self._steps)
        parts = [f"step {step} of {self._steps:.0f}" if bounded else f"step {step}"]
        if isinstance(outputs, dict) and "loss" in outputs:
            parts.append(f"loss {outputs['loss'].item():.4g}")
        parts.append(f"{self._images / (now - self._mark):.3g} images/s")
        if bounded:
            seconds = (now - self._begin) / (step - self._first) * (self._steps - step)  # with validations and images
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        logger.info(", ".join(parts))
        self._logged_step, self._images, self._mark = step, 0, now

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers: dict[str, Any] = trainer.callback_metrics
        recalls = [f"{name[4:]} {100 * value:.1f} %" for name, value in numbers.items() if _recall(name)]
        if recalls and trainer.state.fn == "fit" and _is_shown(trainer):
            logger.info("step %d, validation: %s", trainer.global_step, ", ".join(recalls))
        self._images, self._mark = 0, time.perf_counter()


def _is_shown(trainer: Trainer) -> bool:
    return trainer.is_global_zero and not Console().is_terminal


def _recall(name: str) -> bool:
    return name.startswith("val/caption/") and name.endswith("R@1")
