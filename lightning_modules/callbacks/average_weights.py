"""An average of the weights over the steps of training (EMA): often a better model than its last weights.

    average <- average + (1 - d) (weights - average),   d = min(decay, (1 + t) / (10 + t)) at step t

so that the random start soon has no weight. The average is a copy of the encoder inside the method: it is saved with
it, sharded with it under FSDP2, and takes no gradient. ``lightning export --weights averaged`` makes a model of it.
"""

from __future__ import annotations

import copy

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from datamodules.batch import Batch
from lightning_modules.distributed.wrapping import local_shard
from lightning_modules.methods.base import Method
from lightning_modules.methods.data_check import MethodError


class AverageWeights(Callback):
    """Keeps the average of the encoder's weights, after every step of the optimiser.

    Args:
        decay: share of the average that is kept at a step; 0.999 averages over about a thousand steps.

    Raises:
        ValueError: where ``decay`` is out of its range; in ``setup``, where the weights are trained in bfloat16.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay, self._step = decay, 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Method):
            raise ValueError(f"AverageWeights needs a Method, got {type(pl_module).__name__}")
        if stage == "fit":
            self.check_trainer(trainer)
            if pl_module.averaged is None:
                pl_module.averaged = copy.deepcopy(pl_module.encoder).requires_grad_(False)

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises ``MethodError`` where the weights are trained in bfloat16; ``lightning fit`` asks first."""
        if trainer.precision == "bf16-true":
            raise MethodError(
                "trainer.precision must be 32-true, bf16-mixed or 16-mixed with AverageWeights, got bf16-true: the "
                "average would stand still, as its steps are too small for bfloat16"
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._step = trainer.global_step

    @override
    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are accumulating
            return
        assert isinstance(pl_module, Method)
        assert pl_module.averaged is not None
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(pl_module.averaged.parameters(), pl_module.encoder.parameters(), strict=True):
            local_shard(average).lerp_(local_shard(weight), share)
