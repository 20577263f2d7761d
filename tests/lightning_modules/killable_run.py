"""A training run that notes every step in a file as it goes, for tests that stop it from outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from datamodules import GrainSampling, GranularityData, Squash
from lightning_modules import ClipFinetune, OptimConfig
from lightning_modules.callbacks import LastCheckpoint, Preemption
from tests.helpers.diary import Diary
from tests.helpers.tiny_run import TINY

GLOBAL_BATCH, STEPS = 4, 12


def train(
    folder: str, shards: Sequence[str], pause: float = 0.0, steps: int = STEPS, workers: int = 0, every: int = 1000,
    accumulate: int = 1, more: Sequence[Callback] = (),
) -> None:  # fmt: skip
    """Goes on from ``folder``'s last checkpoint; global batches of 4 on any number of ranks."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    seed_everything(3)
    data = GranularityData(
        list(shards), global_batch_size=GLOBAL_BATCH, num_workers=workers, image_size=16, context_length=77,
        sampling=GrainSampling(1, 1), train_transform=Squash(), batches_per_epoch=5,
    )  # fmt: skip
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=ranks, logger=False, enable_progress_bar=False,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto", use_distributed_sampler=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate,
        callbacks=[
            LastCheckpoint(f"{folder}/checkpoints", every_n_steps=every), Preemption(),
            Diary(folder, pause), *more,
        ],
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-2, eps=1e-3)), data, ckpt_path="last")
