"""One training run under given conditions, on one rank or as one of several, and what came of it."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer, seed_everything
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

from datamodules import GranularityData
from lightning_modules import Method
from lightning_modules.callbacks import AverageWeights
from tests.lightning_modules.ranked_run import strategy

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]
Ranks = Literal["one", "ddp", "fsdp2"]
Steps = Literal["clipped", "accumulated", "both"]
LIMIT = 0.3  # of the gradients' norm, where they are clipped


class Conditions(NamedTuple):
    """The conditions of a run."""

    precision: Precision = "32-true"
    ranks: Ranks = "one"
    steps: Steps = "both"
    cached: bool = False  # gradient caching
    resumed: bool = False
    passes: int = 0  # whole ones, in place of a number of steps

    @property
    def label(self) -> str:
        """For people."""
        words = {"cached": self.cached, "resumed": self.resumed, f"{self.passes} passes": self.passes}
        more = [word for word, wanted in words.items() if wanted]
        return "-".join([self.precision, self.ranks, self.steps, *more])


class Outcome(NamedTuple):
    """Of this rank: the loss of each batch, the gradients' norm at each step, and the epoch and key of each sample that
    was left out; weights are whole.
    """

    losses: list[float]
    norms: list[float]
    started: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    validated: dict[str, float]
    keys: list[Sequence[str]]
    skipped: list[tuple[int, str]]


class _Notes(Callback):
    def __init__(self, save: str | None, at: int) -> None:
        self.save, self.at = save, at
        self.losses, self.norms, self.keys, self.skipped = [], [], [], []
        self.step = 0

    def on_train_start(self, trainer, pl_module):
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.keys.append(batch.keys)
        self.skipped += [(trainer.current_epoch, skip.key) for skip in batch.skipped]
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]
            self.norms.append(torch.cat([g.flatten().double() for g in whole]).norm().item())
            if self.save is not None and self.step == self.at:
                trainer.save_checkpoint(self.save)


def run(
    method: Method,
    data: GranularityData,
    conditions: Conditions,
    steps: int = 3,
    save: str | None = None,
    resume: str | None = None,
) -> Outcome:
    """Train copies of both, for so many steps or for the conditions' passes. A checkpoint goes to ``save`` after the
    first step, inside an epoch.
    """
    method, data = copy.deepcopy(method), copy.deepcopy(data)
    ranks = 1 if conditions.ranks == "one" else dist.get_world_size()
    data.val_batch_size //= ranks
    seed_everything(5)
    started = {name: weight.detach().clone().float() for name, weight in method.state_dict().items()}
    notes = _Notes(save, 1)
    keeps_average = conditions.resumed and conditions.precision != "bf16-true"  # whose steps it refuses
    trainer = Trainer(
        max_steps=-1 if conditions.passes else steps, max_epochs=conditions.passes or None, accelerator="cpu",
        devices=ranks, logger=False, enable_progress_bar=False,
        strategy=strategy({"one": "ddp", "ddp": "ddp", "fsdp2": "whole"}[conditions.ranks], ranks),
        precision=conditions.precision, enable_model_summary=False, enable_checkpointing=False, deterministic=True,
        use_distributed_sampler=False, num_sanity_val_steps=0, check_val_every_n_epoch=1, log_every_n_steps=2,
        accumulate_grad_batches=1 if conditions.steps == "clipped" else 2,
        gradient_clip_val=None if conditions.steps == "accumulated" else LIMIT,
        callbacks=[*([AverageWeights(0.5)] if keeps_average else []), notes],
    )  # fmt: skip
    trainer.fit(method, data, ckpt_path=resume)
    weights = _whole(method) if conditions.ranks == "fsdp2" else method.state_dict()
    validated = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/loss")}
    weights = {name: weight.detach().clone().float() for name, weight in weights.items()}
    return Outcome(notes.losses, notes.norms, started, weights, validated, notes.keys, notes.skipped)


def _whole(method: LightningModule) -> dict[str, torch.Tensor]:
    return get_model_state_dict(method, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


Job = tuple[Method, GranularityData, Conditions, str]


def run_all(jobs: Sequence[Job]) -> list[list[Outcome] | str]:
    """Runs one after the other on this rank of a standing process group, those to be resumed in a second part too; of
    one that fails, on all ranks alike, its traceback.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    return [told(*job) for job in jobs]


def told(*job: Any) -> list[Outcome] | str:
    try:
        return parts(*job)
    except Exception:
        return traceback.format_exc()


def parts(method: Method, data: GranularityData, conditions: Conditions, checkpoint: str) -> list[Outcome]:
    """The whole run; where it is to be resumed, also what goes on from its checkpoint."""
    if not conditions.resumed:
        return [run(method, data, conditions)]
    whole = run(method, data, conditions, save=checkpoint)
    return [whole, run(method, data, conditions, resume=checkpoint)]
