"""Training diagnostics beside the losses; histograms, the run's settings and a layout where a logger shows them.

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
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from typing_extensions import override

from datamodules.batch import Batch, Grain
from datamodules.reading.text_notes import FirstSamples
from lightning_modules.boards.all_boards import Boards
from lightning_modules.boards.hparams import settings_of
from lightning_modules.boards.layout import layout_for
from lightning_modules.boards.snapshot import Snapshot, first_samples, looking
from lightning_modules.boards.statistics import geometry, short_retrieval, similarities
from lightning_modules.callbacks.benchmarks import Benchmarks
from lightning_modules.callbacks.peak_flops import peak_flops
from lightning_modules.checkpoints.metadata import provenance
from lightning_modules.methods.base import Method

logger = logging.getLogger("grainclip")


class Diagnostics(Callback):
    """Gradient norms, memory, geometry, similarities, retention, hyper-parameters beside the run's results.

    Args:
        every_n_steps: optimiser steps between two snapshots of the fixed samples, with one more at the end. 0: none.

    Raises:
        ValueError: where the number is negative.
    """

    def __init__(self, every_n_steps: int = 250) -> None:
        if every_n_steps < 0:
            raise ValueError(f"diagnostics.every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.start: dict[str, float] = {}  # retrieval of the pretrained model
        self._samples: FirstSamples | None = None
        self._writes, self._active, self._last = False, False, -1
        self._boards = Boards([])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = not isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy))
        writes = trainer.is_global_zero and bool(trainer.loggers)
        self._writes = writes and isinstance(pl_module, Method)
        self._active = self._writes and whole
        self._samples, self._last = None, trainer.global_step
        if not self._writes:
            return
        assert isinstance(pl_module, Method)
        if not whole:
            logger.info("no gradient norms and sample statistics: the weights are spread over ranks")
        if self.every_n_steps and whole:
            self._samples = first_samples(trainer)
        if self._samples is not None and not self.start and pl_module.hparams.get("pretrained") is not None:
            with looking(pl_module, self._samples) as snapshot:
                self.start = short_retrieval(snapshot)
        layout = layout_for(pl_module.extra_metric_groups, self._never_logged(trainer, pl_module))
        self._boards = Boards(trainer.loggers, ("histograms",) if self._samples is not None else ())
        self._boards.begin(settings_of(provenance(pl_module)), layout)

    def _never_logged(self, trainer: Trainer, method: Method) -> list[str]:
        """Prefixes of the tags that this run never logs."""
        measured: dict[str, bool] = {
            "retention/": bool(self.start),
            "geometry/": self._samples is not None,
            "gradient_norm/": self._active,
            "memory/": self._active,
            "throughput/mfu": peak_flops(method.device, str(trainer.precision)) is not None,
            "benchmark/": any(isinstance(c, Benchmarks) and c.every_n_steps for c in vars(trainer)["callbacks"]),
        }
        samples = first_samples(trainer) if trainer.limit_val_batches else None
        measured["val/"] = samples is not None
        if samples is not None:
            data: Any = vars(trainer)["datamodule"]
            measured["val/sentence/"] = bool(samples.batch.grains[Grain.SENTENCE].valid.any())
            measured["val/hard_negatives/"] = len(samples.batch.choices.region) > 0
            measured["val/boxes/"] = bool(data.label_names())
        return [name for name, is_measured in measured.items() if not is_measured]

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        every = vars(trainer)["log_every_n_steps"]
        if self._active and every and (trainer.global_step + 1) % every == 0:
            assert isinstance(pl_module, Method)
            norms = gradient_norms(pl_module, _loss_scale(trainer, optimizer))
            _log(trainer, norms | peak_memory(pl_module.device), trainer.global_step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if self._samples is not None and trainer.global_step % self.every_n_steps == 0:
            self._take_snapshot(trainer, pl_module, self._samples)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._samples is not None:
            self._take_snapshot(trainer, pl_module, self._samples)
        self._samples = None

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._writes:
            self._boards.end()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"start": dict(self.start)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"])

    def join(self, trainer: Trainer, snapshot: Snapshot, last: bool) -> None:
        """Measure another callback's snapshot where one is due; ``last`` ends the training."""
        step = trainer.global_step
        if self._samples is not None and step not in (0, self._last) and (last or step % self.every_n_steps == 0):
            self._measure(trainer, snapshot)

    def _take_snapshot(self, trainer: Trainer, pl_module: LightningModule, samples: FirstSamples) -> None:
        assert isinstance(pl_module, Method)
        if trainer.global_step != self._last:
            with looking(pl_module, samples) as snapshot:
                self._measure(trainer, snapshot)

    def _measure(self, trainer: Trainer, snapshot: Snapshot) -> None:
        step = self._last = trainer.global_step
        numbers, cosines = geometry(snapshot), similarities(snapshot)
        now = short_retrieval(snapshot) if self.start else {}
        numbers |= {f"similarity/{name}": values.mean().item() for name, values in cosines.items()}
        numbers |= {f"retention/{name}": now[name] / was for name, was in self.start.items() if was and name in now}
        _log(trainer, numbers, step)
        for name, values in cosines.items():
            # TensorBoard shows a tag as one thing only, so these must not be called like the means
            self._boards.histogram(f"similarities/{name}", values.numpy(), step)


def gradient_norms(method: Method, loss_scale: float = 1.0) -> dict[str, float]:
    """Euclidean norm of the gradient of each tower, and of each module that the method adds, before clipping.

    Args:
        method: with the gradients of a step.
        loss_scale: the factor that the gradients still have, to be divided by.
    """
    added = {id(module) for module in method.new_modules()}
    parts: dict[str, nn.Module] = {
        "image_tower": method.encoder.image_tower,
        "text_tower": method.encoder.text_tower,
        **{name: module for name, module in method.named_children() if id(module) in added},
    }
    norms = {}
    for name, module in parts.items():
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        if grads:
            norms[f"gradient_norm/{name}"] = nn.utils.get_total_norm(grads).item() / loss_scale
    return norms


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory so far in GiB: of tensors on the GPU; without a GPU, of this process."""
    if device.type == "cuda":
        return {"memory/gpu_peak": torch.cuda.max_memory_allocated(device) / 2**30}
    if sys.platform == "linux":
        import resource  # not on every platform

        return {"memory/process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    return {}


def _loss_scale(trainer: Trainer, optimizer: torch.optim.Optimizer) -> float:
    """The factor of 16-mixed precision on the gradients before a step: a fused optimiser divides by it in the step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return scaler.get_scale()


def _log(trainer: Trainer, numbers: Mapping[str, float], step: int) -> None:
    """Log directly: ``pl_module.log`` would log the numbers again at later steps."""
    for run_logger in trainer.loggers:
        run_logger.log_metrics(dict(numbers), step)
