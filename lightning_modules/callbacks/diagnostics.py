"""Numbers that tell how training goes beside its losses; for TensorBoard histograms, a layout and the hparams tab too.

At the steps that are logged: gradient norms of each tower and each module that the method adds, and peak memory. Every
so many steps, on the first validation samples: the geometry of the embeddings, similarities by grain and kind of pair,
and, where training began from a pretrained model, how much of its retrieval is left. The other ranks do
nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from typing_extensions import override

from datamodules.batch import Batch
from lightning_modules.base import Method
from lightning_modules.dashboards.layout import LAYOUT
from lightning_modules.dashboards.measures import geometry, short_retrieval, similarities
from lightning_modules.dashboards.seen import Seen, first_samples, looking
from lightning_modules.provenance import provenance

logger = logging.getLogger("grainclip")


class Diagnostics(Callback):
    """Gradient norms, memory, geometry, similarities, retention, hyper-parameters with the run's last numbers.

    Args:
        every_n_steps: optimiser's steps between two looks at the fixed samples; one more is made at the end. 0: none.

    Raises:
        ValueError: where the number is negative.
    """

    def __init__(self, every_n_steps: int = 250) -> None:
        if every_n_steps < 0:
            raise ValueError(f"diagnostics.every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.start: dict[str, float] = {}  # retrieval of the pretrained model
        self._batch: Batch | None = None
        self._active, self._last = False, -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = not isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy))
        writes = trainer.is_global_zero and bool(trainer.loggers)
        self._active = writes and whole and isinstance(pl_module, Method)
        self._batch, self._last = None, trainer.global_step
        if writes and not whole:
            logger.info("no gradient norms and looks at samples: the weights are spread over ranks")
        if not self._active:
            return
        if (board := _board(trainer)) is not None:
            board.experiment.add_custom_scalars(LAYOUT)
        if self.every_n_steps:
            self._batch = first_samples(trainer)
        if self._batch is not None and not self.start and pl_module.hparams.get("pretrained") is not None:
            assert isinstance(pl_module, Method)
            with looking(pl_module, self._batch) as seen:
                self.start = short_retrieval(seen)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        every = vars(trainer)["log_every_n_steps"]
        if self._active and every and (trainer.global_step + 1) % every == 0:
            assert isinstance(pl_module, Method)
            _log(trainer, gradient_norms(pl_module) | peak_memory(pl_module.device), trainer.global_step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if self._batch is not None and trainer.global_step % self.every_n_steps == 0:
            self._look(trainer, pl_module, self._batch)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batch is not None:
            self._look(trainer, pl_module, self._batch)
        self._batch = None

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        board = _board(trainer)
        if self._active and board is not None and isinstance(pl_module, Method):
            origin = provenance(pl_module)
            settings = {"method": origin["method"], "steps": origin["steps"], "data": origin["data"]}
            settings |= origin["settings"]
            last = {name: value.item() for name, value in trainer.callback_metrics.items() if _told(name)}
            board.log_hyperparams(settings, {f"final/{name}": value for name, value in last.items()}, origin["steps"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"start": dict(self.start)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"])

    def join(self, trainer: Trainer, seen: Seen, last: bool) -> None:
        """Measure what another callback has just embedded, where a look is due anyway; ``last`` ends the training."""
        step = trainer.global_step
        if self._batch is not None and step != self._last and (last or step % self.every_n_steps == 0):
            self._measure(trainer, seen)

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> None:
        assert isinstance(pl_module, Method)
        if trainer.global_step != self._last:
            with looking(pl_module, batch) as seen:
                self._measure(trainer, seen)

    def _measure(self, trainer: Trainer, seen: Seen) -> None:
        step = self._last = trainer.global_step
        numbers, cosines = geometry(seen), similarities(seen)
        now = short_retrieval(seen) if self.start else {}
        numbers |= {f"similarity/{name}": values.mean().item() for name, values in cosines.items()}
        numbers |= {f"retention/{name}": now[name] / was for name, was in self.start.items() if was and name in now}
        _log(trainer, numbers, step)
        if (board := _board(trainer)) is not None:
            for name, values in cosines.items():
                # TensorBoard shows a tag as one thing only, so these must not be called like the means
                board.experiment.add_histogram(f"similarities/{name}", values.numpy(), step)


def gradient_norms(method: Method) -> dict[str, float]:
    """Euclidean norm of the gradient of each tower, and of each module that the method adds, before clipping."""
    own = {id(module) for module in method.new_modules()}
    parts: dict[str, nn.Module] = {
        "image_tower": method.encoder.image_tower,
        "text_tower": method.encoder.text_tower,
        **{name: module for name, module in method.named_children() if id(module) in own},
    }
    norms = {}
    for name, module in parts.items():
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        if grads:
            norms[f"gradient_norm/{name}"] = nn.utils.get_total_norm(grads).item()
    return norms


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB: the most that tensors took on the GPU so far; without a GPU, that this process took."""
    if device.type == "cuda":
        return {"memory/gpu_peak": torch.cuda.max_memory_allocated(device) / 2**30}
    if sys.platform == "linux":
        import resource  # not on every platform

        return {"memory/process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    return {}


def _told(name: str) -> bool:
    """Whether a last number goes to the hparams tab: losses, R@1, accuracies."""
    ends = ("R@1", "accuracy", "top1")
    return name == "train/loss" or name.startswith("val/loss") or (name.startswith("val/") and name.endswith(ends))


def _log(trainer: Trainer, numbers: Mapping[str, float], step: int) -> None:
    """Not by ``pl_module.log``, which would tell them again at later steps."""
    for one in trainer.loggers:
        one.log_metrics(dict(numbers), step)


def _board(trainer: Trainer) -> TensorBoardLogger | None:
    return next((one for one in trainer.loggers if isinstance(one, TensorBoardLogger)), None)
