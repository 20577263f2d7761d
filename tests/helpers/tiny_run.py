"""A whole training run in a second: a tiny encoder on a few made-up samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules import GrainSampling, GranularityData, RandomCrop
from datamodules.batch import Batch
from datamodules.batching.image_transforms import ImageTransform
from lightning_modules import BetaClip, Method, OptimConfig
from lightning_modules.callbacks import BestCheckpoint, LastCheckpoint
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.networks import EncoderConfig
from tests.helpers.tiny import write_shards

Scalars = dict[str, list[float]]
SAMPLING = GrainSampling(2, 2)
TINY = EncoderConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=2, image_heads=2,
    text_width=16, text_layers=1, text_heads=2, embed_dim=16, context_length=77,
)  # fmt: skip


def data(
    folder: Path, workers: int = 0, transform: ImageTransform | None = None,
    sampling: GrainSampling = SAMPLING, **settings,
) -> GranularityData:  # fmt: skip
    shards = write_shards(folder / "shards", 24, 2)
    return GranularityData(
        [str(s) for s in shards], [str(s) for s in shards], batch_size=8, val_batch_size=8, num_workers=workers,
        image_size=16, context_length=77, sampling=sampling,
        train_transform=transform or RandomCrop(), **settings,
    )  # fmt: skip


def first_batch(folder: Path, images: int, samples: int) -> Batch:
    """The first training batch of so many samples, with normalised pixels."""
    module = GranularityData(
        [str(shard) for shard in write_shards(folder, samples, 1)], batch_size=images, num_workers=0, image_size=16,
        context_length=77, sampling=GrainSampling(),
    )  # fmt: skip
    module.setup("fit")
    return module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)


def fit_method(folder: Path, method: Method, data: GranularityData, epochs: int, *callbacks: Callback) -> Scalars:
    """Train ``method``; what was logged, by name."""
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=bool(callbacks),
        logger=TensorBoardLogger(folder, "", ""), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(method, data)
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def fit(
    folder: Path, *callbacks: Callback, workers: int = 0, epochs: int = 4, method=BetaClip, transform=None,
    encoder=TINY, trainer: dict[str, Any] | None = None, sampling=SAMPLING, **settings
) -> Trainer:  # fmt: skip
    seed_everything(3)
    run = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, logger=TensorBoardLogger(folder, "", ""),
        callbacks=[LastCheckpoint(every_n_steps=2), BestCheckpoint(), *callbacks],
        **{"log_every_n_steps": 1, **(trainer or {})},
    )  # fmt: skip
    model = method(encoder=encoder, optim=OptimConfig(lr=1e-2, warmup_steps=2), **settings)
    run.fit(model, data(folder, workers, transform, sampling), ckpt_path="last")
    return run


def assert_caching_changes_nothing(make: Callable[[], Method], batch: Batch) -> None:
    """Every parameter's gradient is the same by parts of four images and by the whole batch at once."""
    wanted = {}
    for part in (None, 4):
        method = make()
        method.memory = MemoryConfig(grad_cache_chunk=part)
        torch.stack(list(method.losses(batch, method.features(batch)).values())).sum().backward()
        grads = {name: p.grad for name, p in method.named_parameters()}
        wanted = wanted or grads
        torch.testing.assert_close(grads, wanted, rtol=1e-8, atol=1e-12)
