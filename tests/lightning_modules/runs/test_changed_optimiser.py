"""A run that goes on with other settings of the optimiser uses them, from its first step; moments and the step stay."""

from __future__ import annotations

import math

import pytest
import torch
from lightning import Callback, Trainer, seed_everything

from lightning_modules import BetaClip, OptimConfig
from lightning_modules.callbacks import LastCheckpoint
from tests.helpers.tiny_run import TINY, data

pytestmark = pytest.mark.filterwarnings("ignore")
BEFORE = OptimConfig(
    lr=1e-3, added_modules_lr=2e-3, temperature_lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98), warmup_steps=1
)
AFTER = OptimConfig(
    lr=1e-5,
    added_modules_lr=4e-3,
    temperature_lr=5e-4,
    weight_decay=0.5,
    betas=(0.8, 0.95),
    eps=1e-6,
    warmup_steps=2,
    final_lr_ratio=0.1,
)


class Groups(Callback):
    """The settings of each group at every step that is made."""

    def __init__(self):
        self.steps = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        names = ("lr", "weight_decay", "betas", "eps")
        self.steps[trainer.global_step] = {g["name"]: {n: g[n] for n in names} for g in optimizer.param_groups}


def train(folder, optim: OptimConfig, steps: int) -> Groups:
    seed_everything(3)
    groups = Groups()
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, callbacks=[LastCheckpoint(str(folder / "c"), every_n_steps=1), groups],
        use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(BetaClip(encoder=TINY, optim=optim, pooling_heads=2), data(folder), ckpt_path="last")
    return groups


def factor(step: int, optim: OptimConfig, total: int) -> float:
    """The schedule, by hand: of the step after ``step`` steps."""
    if step < optim.warmup_steps:
        return (step + 1) / (optim.warmup_steps + 1)
    done = (step - optim.warmup_steps) / (total - optim.warmup_steps)
    return optim.final_lr_ratio + (1 - optim.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2


def test_all_of_them_from_the_first_step_on(tmp_path):
    train(tmp_path, BEFORE, 4)
    first = torch.load(tmp_path / "c/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    steps = train(tmp_path, AFTER, 9).steps
    assert sorted(steps) == [4, 5, 6, 7, 8]
    for step, groups in steps.items():
        share = factor(step, AFTER, 9)
        assert {name.removesuffix("_no_decay") for name in groups} == {"towers", "new", "temperatures"}
        for name, group in groups.items():
            peak = {"towers": 1e-5, "new": 4e-3, "temperatures": 5e-4}[name.removesuffix("_no_decay")]
            assert group["lr"] == pytest.approx(peak * share, rel=1e-12), (step, name)
            assert group["weight_decay"] == (0.5 if name in ("towers", "new") else 0)
            assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)
    last = torch.load(tmp_path / "c/last.ckpt", weights_only=True)
    assert {float(one["step"]) for one in first.values()} == {4}
    assert {float(one["step"]) for one in last["optimizer_states"][0]["state"].values()} == {9}


def test_a_longer_training_follows_its_own_schedule_at_once(tmp_path):
    """Not first the last rate of the schedule that was to end there, then a jump."""
    train(tmp_path, BEFORE, 4)
    steps = train(tmp_path, BEFORE, 12).steps
    for step in range(4, 12):
        assert steps[step]["towers"]["lr"] == pytest.approx(1e-3 * factor(step, BEFORE, 12), rel=1e-12)
    assert steps[4]["towers"]["lr"] > 10 * 1e-3 * BEFORE.final_lr_ratio


def test_the_same_settings_change_nothing(tmp_path):
    """Bit for bit the run that was not stopped."""
    train(tmp_path / "whole", BEFORE, 6)
    for stop in (2, 5):
        stopped(tmp_path / "parts", stop)
    train(tmp_path / "parts", BEFORE, 6)
    whole, parts = (torch.load(tmp_path / f / "c/last.ckpt", weights_only=True) for f in ("whole", "parts"))
    for name, weight in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], weight), name


def stopped(folder, step: int) -> None:
    """As ``train`` to six steps, but it ends before one of them."""

    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == step:
                raise InterruptedError

    seed_everything(3)
    trainer = Trainer(
        max_steps=6, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, callbacks=[LastCheckpoint(str(folder / "c"), every_n_steps=1), Stop()],
        use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    with pytest.raises(InterruptedError):
        trainer.fit(BetaClip(encoder=TINY, optim=BEFORE, pooling_heads=2), data(folder), ckpt_path="last")
