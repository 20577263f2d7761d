"""A training run that notes every step in a file as it goes, for tests that stop it from outside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from datamodules import GrainSampling, GranularityData, Squash
from lightning_modules import ClipFinetune, OptimConfig
from lightning_modules.callbacks import LastCheckpoint, Preemption
from tests.tiny_run import TINY

GLOBAL_BATCH, STEPS = 4, 12


class Diary(Callback):
    """A line of JSON for every step of this rank; each takes at least ``pause`` seconds."""

    def __init__(self, file: Path, pause: float) -> None:
        self.file, self.pause = file, pause

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(self.pause)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = {"step": trainer.global_step, "loss": outputs["loss"].item(), "keys": list(batch.keys)}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def train(
    folder: str, shards: Sequence[str], pause: float = 0.0, steps: int = STEPS, workers: int = 0, every: int = 1000,
    accumulate: int = 1, more: Sequence[Callback] = (),
) -> None:  # fmt: skip
    """Goes on from ``folder``'s last checkpoint; global batches of 4 on any number of ranks."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    seed_everything(3)
    data = GranularityData(
        list(shards), batch_size=GLOBAL_BATCH // ranks, workers=workers, image_size=16, context_length=77,
        sampling=GrainSampling(1, 1), train_transform=Squash(), batches_per_epoch=5,
    )  # fmt: skip
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=ranks, logger=False, enable_progress_bar=False,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto", use_distributed_sampler=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate,
        callbacks=[
            LastCheckpoint(f"{folder}/checkpoints", every_n_steps=every), Preemption(),
            Diary(Path(folder, f"{os.environ.get('RANK', 0)}.jsonl"), pause), *more,
        ],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-2, eps=1e-3)), data, ckpt_path="last")


def diary(folder: Path, ranks: int) -> list[dict]:
    """The steps of all ranks together: their number, their samples in order, the mean loss."""
    files = [Path(folder, f"{rank}.jsonl") for rank in range(ranks)]
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [
        {
            "step": parts[0]["step"],
            "keys": [key for part in parts for key in part["keys"]],
            "loss": sum(part["loss"] for part in parts) / ranks,
        }
        for parts in zip(*lines, strict=True)
    ]


def wait_for(file: Path, lines: int, seconds: float = 60.0) -> None:
    """Until a diary has so many lines."""
    end = time.monotonic() + seconds
    while not file.exists() or file.read_text().count("\n") < lines:
        if time.monotonic() > end:
            raise TimeoutError(f"{file} has not got {lines} lines")
        time.sleep(0.005)
