"""Training runs of a few seconds that a test can have on one rank or on several, the ranks inside one process group."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from datamodules import GrainSampling, GranularityData, Squash
from datamodules.batching.region_sampling import RegionSampling
from datamodules.sample import Region
from lightning_modules import BetaClip, CropTarget, GrainClip, HarmoClip, Method, MulClip, OptimConfig, PhraseTarget
from lightning_modules.callbacks import AverageWeights, CompileBlocks
from lightning_modules.distributed.fsdp2 import FullySharded
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.mul_clip import Calibration
from lightning_modules.networks.lora import LoraConfig
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_methods import AS_PUBLISHED
from tests.helpers.tiny_run import TINY

GLOBAL_BATCH = 8
# A gradient that is nothing but rounding (a key's bias has none) is not blown up to a step of full size.
OPTIM = OptimConfig(lr=3e-3, eps=4e-3, warmup_steps=2)
METHODS = {
    "beta_clip": lambda **more: BetaClip("bce", normalize_by="row", bias=-3.0, pooling_gain=2.0, **more),
    "mul_clip": lambda **more: MulClip(**(AS_PUBLISHED | {"calibration": Calibration(3, gain=2.0)}), **more),
    "grain_clip": lambda **more: GrainClip(pooling_gain=2.0, **more),
    "harmo_clip": lambda **more: HarmoClip(
        lexeme="mean", lexeme_weight=1.0, region_losses=[CropTarget(), PhraseTarget()], lexeme_projection="own", **more
    ),
}


@dataclass(frozen=True)
class Spec:
    """A run: what is trained, how the weights lie on the ranks, and where checkpoints go."""

    method: str
    strategy: Literal["ddp", "sharded", "whole"] = "ddp"
    steps: int = 20
    accumulate: int = 1
    clip: float | None = None
    grad_cache_chunk: int | None = None
    recompute: bool = False
    resume: str | None = None
    save: str | None = None  # a checkpoint half-way
    averaged: bool = False
    compiled: bool = False
    freeze: FreezeConfig = FreezeConfig()
    lora: LoraConfig | None = None
    pretrained: str | None = None  # a folder to start from
    image_tower: str | None = None  # of timm, on larger images


@dataclass
class Result:
    """The loss of every batch on this rank, what it was made of, the weights, whole, on rank 0, and after how many
    batches this rank had gradients that had been to the other ranks.
    """

    losses: list[float]
    keys: list[Sequence[str]]
    weights: dict[str, torch.Tensor]
    reduced: int


class Recorder(Callback):
    """Records each step; half-way a checkpoint goes to ``save``."""

    def __init__(self, save: str | None, steps: int) -> None:
        self.save, self.half = save, steps // 2
        self.losses, self.keys, self.reduced = [], [], 0

    def on_after_backward(self, trainer, pl_module):
        self.reduced += all(p.grad is not None for p in pl_module.parameters() if p.requires_grad)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.keys.append(batch.keys)
        if self.save is not None and trainer.global_step == self.half:
            trainer.save_checkpoint(self.save)
            self.save = None  # not again while gradients of the next step accumulate


def write_uneven(folder: Path) -> list[str]:
    """Of 24 samples every fourth has many boxes, others have none, and texts are few or many."""
    samples = []
    for number in range(24):
        boxes = [Region((0.1, 0.2, 0.6, 0.9), 0, "a"), Region((0.3, 0.0, 1.0, 0.5), 1, "b")]
        changes: dict[str, Any] = {"regions": tuple(boxes * 2 if number % 4 == 0 else boxes[: number % 3])}
        if number % 3 == 1:
            plain = make_sample(number)
            changes = {"regions": (), "phrases": (), "caption": plain.sentences[0], "sentences": plain.sentences[:1]}
        samples.append(make_sample(number, **changes))
    return [str(write_tar(folder / "train-000.tar", samples))]


def strategy(name: str, ranks: int) -> Strategy | str:
    if name == "ddp":
        return DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto"
    return FullySharded("sharded" if name == "sharded" else "whole", process_group_backend="gloo")


def train(spec: Spec, shards: list[str], ranks: int, *callbacks: Callback) -> Result:
    """The run ``spec`` as one of ``ranks``."""
    seed_everything(5)
    encoder = replace(TINY, frozen_positions=20)
    if spec.image_tower is not None:
        sizes = {"image_size": 64, "patch_size": 8, "image_width": 128, "image_layers": 4, "image_heads": 4}
        encoder = replace(encoder, image_tower=spec.image_tower, **sizes)
    data = GranularityData(
        shards, batch_size=GLOBAL_BATCH // ranks, num_workers=0, image_size=encoder.image_size, context_length=77,
        sampling=GrainSampling(2, 3, summaries=1), regions=RegionSampling(crops=1), train_transform=Squash(),
        batches_per_epoch=20,
    )  # fmt: skip
    seen = Recorder(spec.save, spec.steps)
    extras = [AverageWeights(0.7)] if spec.averaged else []
    extras += [CompileBlocks(backend="eager")] if spec.compiled else []
    trainer = Trainer(
        max_steps=spec.steps, accelerator="cpu", devices=ranks, strategy=strategy(spec.strategy, ranks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, deterministic=True,
        use_distributed_sampler=False, accumulate_grad_batches=spec.accumulate, gradient_clip_val=spec.clip,
        callbacks=[seen, *extras, *callbacks],
    )  # fmt: skip
    memory = MemoryConfig(spec.grad_cache_chunk, spec.recompute)
    method: Method = METHODS[spec.method](
        encoder=encoder, optim=OPTIM, memory=memory, freeze=spec.freeze, lora=spec.lora, pretrained=spec.pretrained
    )
    trainer.fit(method, data, ckpt_path=spec.resume)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(method, options=options) if spec.strategy != "ddp" else method.state_dict()
    weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
    return Result(seen.losses, seen.keys, weights, seen.reduced)


def train_all(specs: Sequence[Spec], shards: list[str]) -> list[Result]:
    """Runs one after the other on this rank of a standing process group."""
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    return [train(spec, shards, world) for spec in specs]
