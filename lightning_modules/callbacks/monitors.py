"""What is counted while it runs: images per second, and the samples that could not be used."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from datamodules.batch import Batch

logger = logging.getLogger("grainclip")


class Throughput(Callback):
    """``throughput/images_per_second`` over all ranks and ``throughput/waiting``, the share of time spent on data.

    Measured over the steps between two log points; validation does not count.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.images, self.busy, self.elapsed, self.mark = 0, 0.0, 0.0, time.perf_counter()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.started = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.images += len(batch.images)
        self.busy += now - self.started
        self.elapsed, self.mark = self.elapsed + now - self.mark, now
        if (batch_idx + 1) % _log_interval(trainer) == 0:
            speed = self.images * trainer.world_size / self.elapsed
            pl_module.log("throughput/images_per_second", speed, prog_bar=True)
            pl_module.log("throughput/waiting", max(0.0, 1 - self.busy / self.elapsed))
            self._restart()


class RateMonitor(LearningRateMonitor):
    """Learning rates of all groups at every step; nothing where there is no logger to take them."""

    def __init__(self) -> None:
        super().__init__(logging_interval="step")

    @override
    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    @override
    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)


class DataMonitor(Callback):
    """``data/...``: samples left out by reason and texts cut at the context, in total over all ranks and the whole
    run.
    """

    def __init__(self) -> None:
        self.before: Counter[str] = Counter()  # of the run that this one goes on from, all ranks
        self.mine: Counter[str] = Counter()  # of this rank

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        self.mine.update(batch.counts)
        if (batch_idx + 1) % _log_interval(trainer) == 0:
            pl_module.log_dict({f"data/{name}": float(n) for name, n in self.totals().items()})
        pl_module.log("data/tokens_per_image", len(batch.texts.tokens) / len(batch.images))

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.mine.update(batch.counts)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, count in self.totals().items():
            if count and trainer.is_global_zero:
                logger.info("data: %s %d", name, count)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.totals())}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = Counter(state_dict["counts"])

    def totals(self) -> dict[str, int]:
        """All counts by name, and ``skipped`` in all. Collective: every rank must call it."""
        ranks = [self.mine]
        if dist.is_initialized():
            ranks = [Counter() for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, self.mine)
        counts = sum(ranks, Counter(self.before))
        skipped = sum(n for name, n in counts.items() if name.startswith("skipped/"))
        return {"skipped": skipped, **dict(sorted((k, v) for k, v in counts.items() if k != "skipped"))}


def _log_interval(trainer: Trainer) -> int:
    """Batches between two log points; Lightning sets the attribute outside the class."""
    return int(vars(trainer)["log_every_n_steps"])
