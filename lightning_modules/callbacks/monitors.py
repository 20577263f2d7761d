"""What is counted while it runs: images per second, and the samples that could not be used."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

from lightning import Callback, LightningModule, Trainer
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
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            speed = self.images * trainer.world_size / self.elapsed
            pl_module.log("throughput/images_per_second", speed, prog_bar=True)
            pl_module.log("throughput/waiting", max(0.0, 1 - self.busy / self.elapsed))
            self._restart()


class DataMonitor(Callback):
    """``data/...``: samples left out by reason and texts cut at the context, in total over all ranks and the whole
    run.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter({"skipped": 0})

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        self._add(trainer, batch)
        pl_module.log_dict({f"data/{name}": float(n) for name, n in self.totals.items()})
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
        self._add(trainer, batch)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, count in sorted(self.totals.items()):
            if count:
                logger.info("data: %s %d", name, count)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = Counter(state_dict["totals"])

    def _add(self, trainer: Trainer, batch: Batch) -> None:
        self.totals.update(batch.counts)
        self.totals["skipped"] += sum(n for name, n in batch.counts.items() if name.startswith("skipped/"))
