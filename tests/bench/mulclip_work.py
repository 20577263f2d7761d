"""Benchmark of MulCLIP: a training step with all its terms against one with the global terms alone, same texts."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from tests.bench.tower_work import precision

IMAGES = 4


def step(side: str, images: int = IMAGES, device: str = "cpu") -> Callable[[], None]:
    """ViT-B/16 on scenes' captions, summaries and sentences: losses, gradients, optimiser; ``old`` is global only."""
    from datamodules import scenes
    from datamodules.collate import Preparer, collate
    from datamodules.sampling import GrainSampling
    from datamodules.tokenizer import Tokenizer
    from datamodules.transforms import Squash
    from lightning_modules import MulClip, OptimConfig
    from lightning_modules.networks import vit_b_16
    from lightning_modules.optim import adamw

    torch.manual_seed(0)
    weights = {"word_weight": 0.0, "subcaption_weight": 0.0} if side == "old" else {}
    method = MulClip(encoder=vit_b_16(), **weights).to(device).eval()  # the same texts on both sides
    optimizer = adamw(method, method.new_modules(), OptimConfig(lr=1e-5))
    prepare = Preparer(224, Squash(), GrainSampling(6, 0, 1), Tokenizer(248), random_texts=False)
    batch = collate([prepare(scenes.sample(i, "train"), random.Random(i)) for i in range(images)])
    pixels = torch.randn(images, 3, 224, 224, device=device)
    batch = batch._replace(
        images=pixels,
        texts=type(batch.texts)(*(t.to(device) for t in batch.texts)),
        grains={g: type(s)(*(t.to(device) for t in s)) for g, s in batch.grains.items()},
    )

    def work() -> None:
        optimizer.zero_grad()
        with precision(device):
            loss = torch.stack(list(method.losses(batch, method.features(batch)).values())).sum()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return work
