"""Stops a training that cannot learn: the data brings none of a method's inputs, or the loss is always 0.

Without boxes, without sentences, or with one image a batch, a run trains without an error, but another method than the
configured one. So the inputs of the first batches are counted over all ranks, and all ranks stop together.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from typing_extensions import override

from datamodules.batch import Batch, Grain
from datamodules.reading.ranks import rank_count
from eval.metrics.gather import rank

if TYPE_CHECKING:
    from lightning_modules.methods.base import Method

logger = logging.getLogger("grainclip")
PLURALS = {grain: "summaries" if grain is Grain.SUMMARY else f"{grain.value}s" for grain in Grain}
LOSS_AT, INPUTS_AT = 10, 100  # batches after which loss and inputs are checked; at the latest at the first epoch's end


class MethodError(ValueError):
    """A method cannot learn from what the trainer or the data give it."""


def check_precision(precision: object) -> None:
    """Stop where steps in the trainer's ``precision`` teach nothing. Raises MethodError."""
    if precision == "16-true":
        raise MethodError(
            "trainer.precision must be 16-mixed, bf16-mixed, bf16-true or 32-true to train, got 16-true: "
            "the optimiser's squared gradients vanish in fp16"
        )


def check_sharding(method: Method) -> None:
    """Stop where a part of the method needs whole weights on each rank. Raises MethodError."""
    if method.frozen_features is not None:
        raise MethodError("freeze.feature_cache_gib needs whole weights on each rank: set it to 0, or train by DDP")
    if method.student_share < 1:
        raise MethodError("a teacher with student_share below 1 needs whole weights on each rank: train it with DDP")


def check_sampled(method: Method) -> None:
    """Stop where the data gives none of a grain that the method requires (captions it always gives).

    Raises:
        MethodError: naming the setting.
    """
    sampling = getattr(vars(method.trainer).get("datamodule"), "sampling", None)
    for grain in method.required_grains():
        if grain is not Grain.CAPTION and getattr(sampling, PLURALS[grain], None) == 0:
            least = "1" if grain is Grain.SUMMARY else "1 or more"
            raise MethodError(
                f"data.sampling.{PLURALS[grain]} must be {least} where {type(method).__name__} is to learn from a "
                f"{grain.value}, got 0"
            )


class DataCheck(Callback):
    """Counts the inputs in the first batches of a new run; every `Method` adds this callback itself."""

    def __init__(self) -> None:
        self.batches, self.names = 0, ()
        self.totals: list[Tensor | int] = []
        self.active, self.device = False, torch.device("cpu")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.active = trainer.global_step == 0 and not vars(trainer).get("fast_dev_run", False)
        self.batches = 0

    @override
    def on_train_batch_end(  # pyright: ignore[reportIncompatibleMethodOverride] only a Method brings it
        self, trainer: Trainer, pl_module: Method, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if not self.active or not isinstance(outputs, dict):
            return
        self.device = pl_module.device
        brought = pl_module.brought(batch)
        numbers = [outputs["loss"].detach().abs().reshape(()), len(batch.images), *brought.values()]
        # Numbers of the host's are added up there, and those of the device there, so that neither waits.
        self.totals = numbers if self.batches == 0 else [a + b for a, b in zip(self.totals, numbers, strict=True)]
        self.batches, self.names = self.batches + 1, tuple(brought)
        if self.batches == LOSS_AT:
            self._check_loss(pl_module)
        if self.batches == INPUTS_AT:
            self._check_inputs(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.active and self.batches:
            if self.batches < LOSS_AT:
                self._check_loss(pl_module)
            self._check_inputs(trainer, pl_module)

    def _check_loss(self, method: Method) -> None:
        loss, images, *_ = self._over_all_ranks()
        single = images == self.batches
        if loss == 0 and single:
            raise MethodError(
                "data.batch_size must be 2 or more: every batch has one image, which has nothing to be contrasted "
                f"with, and the loss was 0 in the first {self.batches} steps"
            )
        if loss == 0:
            raise MethodError(
                f"{type(method).__name__} learns nothing: its loss was exactly 0 in the first {self.batches} batches; "
                "give one of its terms a weight above 0"
            )
        if single and rank() == 0:
            logger.warning("every batch has one image: its texts are contrasted with each other, with no other image's")

    def _check_inputs(self, trainer: Trainer, method: Method) -> None:
        self.active = False
        sampling = getattr(vars(trainer).get("datamodule"), "sampling", None)
        _, images, *counts = self._over_all_ranks()
        for name, count in zip(self.names, counts, strict=True):
            if count == 0 and getattr(sampling, name, None) != 0:  # not asked for, not missing
                raise MethodError(
                    f"{type(method).__name__} got none of the {name} that it learns from in its first {images:.0f} "
                    f"images; {method.remedy(name)}"
                )

    def _over_all_ranks(self) -> list[float]:
        totals = torch.tensor([float(total) for total in self.totals], dtype=torch.double)
        if rank_count() > 1:
            totals = totals.to(self.device)
            dist.all_reduce(totals)
        return totals.tolist()
