"""Benchmark of HarmoCLIP-style training: what regions and crops add to a step. Dense features come with CLS's pass."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from tests.bench.tower_work import precision

IMAGES = 4
COUNTS = ((0, 0), (4, 0), (4, 1), (4, 2), (4, 4), (1, 1))  # boxes and crops of an image


def step(boxes: int, crops: int, images: int = IMAGES, device: str = "cpu") -> Callable[[], None]:
    """ViT-B/16 on scenes: losses, gradients and the optimiser's step; without boxes it is the global term alone."""
    from datamodules import scenes
    from datamodules.collate import Preparer, collate
    from datamodules.crops import RegionSampling
    from datamodules.module import GranularityData
    from datamodules.sampling import GrainSampling
    from datamodules.tokenizer import Tokenizer
    from datamodules.transforms import Squash
    from lightning_modules import CropTarget, HarmoClip, OptimConfig
    from lightning_modules.networks import vit_b_16
    from lightning_modules.optim import adamw

    torch.manual_seed(0)
    method = HarmoClip(lexeme_weight=float(boxes > 0), targets=[CropTarget()] if crops else [], encoder=vit_b_16()).to(
        device
    )
    optimizer = adamw(method, method.new_modules(), OptimConfig(lr=1e-5))
    regions = RegionSampling(boxes=max(boxes, 1), crops=crops)
    prepare = Preparer(224, Squash(), GrainSampling(0, 8), Tokenizer(248), random_texts=True, regions=regions)
    busy = [s for s in (scenes.sample(i, "train") for i in range(20 * images)) if len({r.box for r in s.regions}) >= 4]
    batch = collate([prepare(sample, random.Random(0)) for sample in busy[:images]])
    data = GranularityData(image_size=224, workers=0)
    batch = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, torch.device(device), 0), 0)

    def work() -> None:
        optimizer.zero_grad()
        with precision(device):
            loss = torch.stack(list(method.losses(batch, method.features(batch)).values())).sum()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return work
