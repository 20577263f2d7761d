"""Dashboards on two ranks: the first one looks and draws, the other trains and nothing else, and neither waits."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import GrainSampling, GranularityData, Squash
from lightning_modules import BetaClip, OptimConfig
from lightning_modules.callbacks import DataMonitor, Diagnostics, Pictures, Throughput
from tests.ranks import run_on_ranks
from tests.tiny import write_shards
from tests.tiny_run import TINY

STEPS = 4


def train(folder: str, shards: list[str], dashboards: bool) -> tuple[int, list[str], torch.Tensor]:
    """On this rank: how often the image tower ran, the files this process opened for logs, the weights."""
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    seed_everything(3)
    callbacks = [Pictures(every_n_steps=2, samples=1), Diagnostics(every_n_steps=2), Throughput(), DataMonitor()]
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", devices=world, strategy=DDPStrategy(process_group_backend="gloo"),
        num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1, use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        logger=TensorBoardLogger(folder, "", ""), callbacks=callbacks if dashboards else [],
    )  # fmt: skip
    data = GranularityData(
        shards, shards, batch_size=4, val_batch_size=8, workers=0, image_size=16, context_length=77,
        sampling=GrainSampling(2, 2), train_transform=Squash(),
    )  # fmt: skip
    method = BetaClip(encoder=TINY, optim=OptimConfig(lr=1e-2))
    passes = []
    method.encoder.image_tower.register_forward_pre_hook(lambda *_: passes.append(1))
    trainer.fit(method, data)
    mine = [path.name for path in Path(folder).rglob("events*") if f".{os.getpid()}." in path.name]
    return len(passes), mine, torch.cat([p.detach().flatten() for p in method.parameters()])


def test_only_the_first_rank_looks_and_nobody_waits(tmp_path):
    shards = [str(path) for path in write_shards(tmp_path / "shards", 24, 2)]
    found = run_on_ranks(train, 2, str(tmp_path / "with"), shards, True)
    plain = run_on_ranks(train, 2, str(tmp_path / "without"), shards, False)
    (looked, written, weights), (trained, silent, others) = found
    assert looked == STEPS + 3  # after steps 2 and 4, drawn and measured at once; and for the projector at the end
    assert (trained, silent) == (STEPS, [])
    assert len(written) >= 1
    assert torch.equal(weights, others)
    assert torch.equal(weights, plain[0][2])  # training is as it would be without
    events = EventAccumulator(str(tmp_path / "with"), {"images": 0, "scalars": 0}).Reload()
    assert [one.step for one in events.Images("attention/sample 1")] == [2, 4]
    assert [one.step for one in events.Scalars("geometry/alignment")] == [2, 4]
