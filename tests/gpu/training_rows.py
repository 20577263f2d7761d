"""Twenty steps of every method, small: by DDP and FSDP2 on one rank, compiled, resumed, deterministic and in bf16,
beside the plain run in fp32.

``difference`` is the largest difference of a weight from the plain run's, as a share of the largest weight of its
tensor; of ``deterministic`` it is that of two such runs, which must be 0. In bf16 compare the losses: weights that
start at 0 move by the sign of rounded gradients.
"""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from typing_extensions import override

from lightning_modules.callbacks import CompileBlocks
from lightning_modules.distributed.fsdp2 import FullySharded
from tests.gpu.row import Row
from tests.helpers.tiny_methods import METHODS, method_data

STEPS, STOP = 20, 9  # the resumed run stops inside an epoch
VARIANTS = ("plain", "DDP", "FSDP2", "compiled", "resumed", "deterministic", "bf16-mixed")
Weights = dict[str, Tensor]


class StopAt(Callback):
    """Saves after ``STOP`` steps and ends the run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: object) -> None:
        if trainer.global_step == STOP:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: object) -> None:
        self.values.append(trainer.callback_metrics["train/loss"].detach().clone())


def train(
    name: str, folder: Path, device: torch.device, *callbacks: Callback, resume: Path | None = None, **settings: Any
) -> tuple[float, Weights]:
    """Train a method; its last loss, and its weights on the CPU."""
    seed_everything(0, verbose=False)
    recorded = Losses()
    trainer = Trainer(
        max_steps=STEPS, accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        limit_val_batches=0, log_every_n_steps=STEPS, callbacks=[recorded, *callbacks],
        **({"precision": "32-true"} | settings),
    )  # fmt: skip
    method = METHODS[name]()
    trainer.fit(method, method_data(folder / "data"), ckpt_path=resume)
    state = get_model_state_dict(method, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    weights = {key.replace("_orig_mod.", ""): value.detach().cpu().float() for key, value in state.items()}
    if dist.is_initialized():
        dist.destroy_process_group()
    return recorded.values[-1].item(), weights


def variant(name: str, kind: str, folder: Path, device: torch.device) -> tuple[float, Weights]:
    """A method trained in one of the ``VARIANTS``."""
    if kind == "DDP":
        return train(name, folder, device, strategy=DDPStrategy(gradient_as_bucket_view=True))
    if kind == "FSDP2":
        return train(name, folder, device, strategy=FullySharded())
    if kind == "compiled":
        torch._dynamo.reset()
        backend = "inductor" if device.type == "cuda" else "eager"
        return train(name, folder, device, CompileBlocks(backend))
    if kind == "resumed":
        file = folder / "half.ckpt"
        train(name, folder, device, StopAt(file))
        return train(name, folder, device, resume=file)
    if kind == "deterministic":
        try:
            return train(name, folder, device, deterministic=True)
        finally:
            torch.use_deterministic_algorithms(False)
    return train(name, folder, device, precision=kind if kind == "bf16-mixed" else "32-true")


def difference(ours: Weights, theirs: Weights) -> float:
    """The largest difference of a weight, as a share of the largest weight of its tensor."""
    shares = [
        (ours[n] - theirs[n]).abs().max() / theirs[n].abs().max().clamp(min=1e-12) for n in theirs if theirs[n].numel()
    ]
    return torch.stack(shares).max().item()


@cache
def plain(name: str, device: torch.device) -> tuple[float, Weights]:
    """A method's plain run."""
    with tempfile.TemporaryDirectory() as folder:
        return variant(name, "plain", Path(folder), device)


def row(name: str, kind: str, device: torch.device) -> dict[str, Any]:
    """The last loss, and the difference from the plain run."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = variant(name, kind, Path(folder), device) if kind == "deterministic" else plain(name, device)
        ours = variant(name, kind, Path(folder), device)
    return {"compared_loss": theirs[0], "loss": ours[0], "difference": difference(ours[1], theirs[1])}


def rows(device: torch.device) -> list[Row]:
    """A row for each method and variant; ``plain`` itself is trained twice."""
    return [
        Row(f"training/{name}/{kind}", partial(row, name, kind, device))
        for kind in sorted(VARIANTS, key=lambda kind: kind == "compiled")  # it takes longest
        for name in METHODS
    ]
