"""Counts during training: images and operations per second, the samples that could not be used, padding."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from datamodules.batch import Batch
from datamodules.reading.ranks import gather
from lightning_modules.callbacks.peak_flops import peak_flops
from lightning_modules.methods.base import Method
from lightning_modules.methods.batch_indices import text_lengths
from lightning_modules.networks.sequence_packing import empty_share
from losses.core.host_copies import on_host

logger = logging.getLogger("grainclip")


class Throughput(Callback):
    """``throughput/images_per_second`` over all ranks; ``throughput/data_wait_fraction``, the share of time spent on
    data; ``throughput/teraflops``, useful operations a second of each device, and ``throughput/mfu``, their share of
    the device's peak, where that is known.

    Measured over the steps between two log points, also where an epoch ends between them; validation does not count,
    nor does what comes between two epochs.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.images, self.busy, self.elapsed, self.mark = 0, 0.0, 0.0, time.perf_counter()
        self.crops = 0.0  # embedded besides the images, in units of an image
        self.lengths: list[np.ndarray] = []  # of the texts encoded

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.started = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if not _log_interval(trainer):
            return
        now = time.perf_counter()
        self.images += len(batch.images)
        self.busy += now - self.started
        self.elapsed, self.mark = self.elapsed + now - self.mark, now
        if isinstance(pl_module, Method):
            self.lengths.append(text_lengths(batch, pl_module.required_grains()))
            self.crops += pl_module.further_images(batch)
        if _logs_now(trainer):
            self._log_arithmetic(trainer, pl_module)
            speed = self.images * trainer.world_size / self.elapsed
            pl_module.log("throughput/images_per_second", torch.tensor(speed), prog_bar=True)  # read at every step
            pl_module.log("throughput/data_wait_fraction", max(0.0, 1 - self.busy / self.elapsed))
            self._restart()

    def _log_arithmetic(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, Method):
            return
        lengths = np.concatenate(self.lengths).astype(np.float64)
        tokens, squares = float(lengths.sum()), float(np.square(lengths).sum())
        operations = pl_module.encoder.training_flops(self.images + self.crops, tokens, squares, pl_module.needs_dense)
        if operations is None:
            return
        flops = operations / self.elapsed
        pl_module.log("throughput/teraflops", flops / 1e12)
        peak = peak_flops(pl_module.device, str(trainer.precision))
        if peak is not None:
            pl_module.log("throughput/mfu", flops / peak)


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
        self.earlier_counts: Counter[str] = Counter()  # of the run before the resume, all ranks
        self.own_counts: Counter[str] = Counter()  # of this rank

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        self.own_counts.update(batch.counts)
        if _logs_now(trainer):
            pl_module.log_dict({f"data/{name}": float(n) for name, n in self.totals().items()})
            if isinstance(pl_module, Method):
                pl_module.log_dict(text_shares(pl_module, batch))
        tokens = torch.tensor(
            len(batch.texts.tokens) / len(batch.images)
        )  # Lightning copies mere numbers to the device
        pl_module.log("data/tokens_per_image", tokens)

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
        self.own_counts.update(batch.counts)

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
        self.earlier_counts = Counter(state_dict["counts"])

    def totals(self) -> dict[str, int]:
        """All counts by name, and ``skipped`` in all. Collective: every rank must call it."""
        counts = sum(gather(self.own_counts), Counter(self.earlier_counts))
        skipped = sum(n for name, n in counts.items() if name.startswith("skipped/"))
        return {"skipped": skipped, **dict(sorted((k, v) for k, v in counts.items() if k != "skipped"))}


def text_shares(method: Method, batch: Batch) -> dict[str, float]:
    """Shares of a training batch: duplicates among its texts, and padding in the text tower's rows."""
    slots = sum(int(on_host(batch.grains[grain].valid).sum()) for grain in method.required_grains())
    lengths = text_lengths(batch, method.required_grains()).tolist()
    empty = empty_share(lengths, method.encoder.context_length)
    return {"data/duplicate_share": 1 - len(lengths) / max(slots, 1), "data/padding_share": empty}


def _log_interval(trainer: Trainer) -> int:
    """Optimiser steps between two log points, 0 for none; Lightning sets the attribute outside the class."""
    return int(vars(trainer)["log_every_n_steps"])


def _logs_now(trainer: Trainer) -> bool:
    """True at a log point: the last batch of every so many steps of the run."""
    every = _log_interval(trainer)
    accumulates = trainer.fit_loop.epoch_loop._should_accumulate()
    return every > 0 and not accumulates and trainer.global_step % every == 0
