"""Dashboards on two ranks: the first one looks and draws, the other trains and nothing else, and neither waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.callbacks import DataMonitor, Diagnostics, SampleImages, Throughput
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny_methods import METHODS, method_data

STEPS, PLAIN = 2, "beta_bce"  # of one pass, with a validation after it; the method that trains without as well
EvalContext = tuple[int, list[str], torch.Tensor]


def train(folder: Path, name: str, dashboards: bool) -> EvalContext:
    """On this rank: how often the image tower ran, the files this process opened for logs, the weights."""
    seed_everything(3)
    callbacks = [SampleImages(samples=1), Diagnostics(), Throughput(), DataMonitor()]
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
        num_sanity_val_steps=0, log_every_n_steps=1, use_distributed_sampler=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, logger=TensorBoardLogger(folder, "", ""),
        callbacks=callbacks if dashboards else [],
    )  # fmt: skip
    method, passes = METHODS[name](), []
    method.encoder.image_tower.register_forward_pre_hook(lambda *_: passes.append(1))
    trainer.fit(method, method_data(folder / f"shards {dist.get_rank()}", batch_size=3))
    mine = [path.name for path in folder.rglob("events*") if f".{os.getpid()}." in path.name]
    return len(passes), mine, torch.cat([p.detach().flatten() for p in method.parameters()])


def train_all(folder: str) -> tuple[dict[str, EvalContext], EvalContext]:
    """Every method on this rank with dashboards, and one without."""
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    return {name: train(Path(folder, name), name, True) for name in METHODS}, train(Path(folder, "plain"), PLAIN, False)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_on_ranks(train_all, 2, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_only_the_first_rank_looks_and_nobody_waits(ranks, name):
    folder, runs = ranks
    (looked, written, weights), (trained, silent, others) = (run[name] for run, _ in runs)
    assert looked == trained + 3  # before training, after the validation, and for the projector
    assert silent == []
    assert len(written) >= 1
    assert torch.equal(weights, others)
    events = EventAccumulator(str(folder / name), {"images": 0, "scalars": 0}).Reload()
    assert [one.step for one in events.Images("attention/sample 1")] == [0, 2]
    assert [one.step for one in events.Scalars("geometry/alignment")] == [2]


@pytest.mark.slow
def test_training_is_as_it_would_be_without(ranks):
    _, runs = ranks
    for rank, (with_dashboards, (passes, _, weights)) in enumerate(runs):
        assert torch.equal(with_dashboards[PLAIN][2], weights)
        assert with_dashboards[PLAIN][0] == passes + 3 * (rank == 0)
