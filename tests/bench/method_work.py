"""Benchmarks of whole training steps of MulCLIP and HarmoCLIP-style training: ViT-B/16 on scenes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tests.bench.tower_work import precision

if TYPE_CHECKING:
    from datamodules.batching.collate import PreparedSample
    from lightning_modules import Method

IMAGES = 4
COUNTS = ((0, 0), (4, 0), (4, 1), (4, 2), (4, 4))  # boxes and crops of an image


def mulclip(side: str, images: int = IMAGES, device: str = "cpu") -> Callable[[], None]:
    """MulCLIP with all its terms; ``old`` is its global terms alone on the same texts."""
    from datamodules import scenes
    from datamodules.batching.collate import SamplePreprocessor
    from datamodules.batching.image_transforms import Squash
    from datamodules.batching.text_sampling import GrainSampling
    from datamodules.batching.tokenizer import Tokenizer
    from lightning_modules import MulClip
    from lightning_modules.networks import vit_b_16
    from tests.helpers.tiny_methods import AS_PUBLISHED

    torch.manual_seed(0)
    weights = {"word_weight": 0.0, "subcaption_weight": 0.0} if side == "old" else {}
    method = MulClip(encoder=vit_b_16(), **(AS_PUBLISHED | weights))
    method.eval()  # in training, the old side would not encode sentences
    prepare = SamplePreprocessor(224, Squash(), GrainSampling(6, 0, 1), Tokenizer(248), random_texts=False)
    return _step(method, [prepare(scenes.sample(i, "train"), random.Random(i)) for i in range(images)], device)


def harmoclip(boxes: int, crops: int, images: int = IMAGES, device: str = "cpu") -> Callable[[], None]:
    """HarmoCLIP-style with so many boxes and crops of each image; without boxes it is the global term alone."""
    from datamodules import scenes
    from datamodules.batching.collate import SamplePreprocessor
    from datamodules.batching.image_transforms import Squash
    from datamodules.batching.region_sampling import RegionSampling
    from datamodules.batching.text_sampling import GrainSampling
    from datamodules.batching.tokenizer import Tokenizer
    from lightning_modules import CropTarget, HarmoClip
    from lightning_modules.networks import vit_b_16

    torch.manual_seed(0)
    targets = [CropTarget()] if crops else []
    method = HarmoClip(lexeme_weight=float(boxes > 0), lexeme="mean", region_losses=list(targets), encoder=vit_b_16())
    regions = RegionSampling(boxes=max(boxes, 1), crops=crops)
    prepare = SamplePreprocessor(224, Squash(), GrainSampling(0, 8), Tokenizer(248), random_texts=True, regions=regions)
    busy = [s for s in (scenes.sample(i, "train") for i in range(20 * images)) if len({r.box for r in s.regions}) >= 4]
    return _step(method, [prepare(sample, random.Random(0)) for sample in busy[:images]], device)


def _step(method: Method, items: list[PreparedSample], device: str) -> Callable[[], None]:
    """Losses, gradients and the optimiser's step."""
    from datamodules.batching.collate import collate
    from datamodules.datamodule import GranularityData
    from lightning_modules import OptimConfig
    from lightning_modules.methods.optimizers import adamw

    method.to(device)
    optimizer = adamw(method, method.new_modules(), OptimConfig(lr=1e-5))
    data = GranularityData(image_size=224, num_workers=0)
    batch = data.transfer_batch_to_device(collate(items), torch.device(device), 0)
    batch = data.on_after_batch_transfer(batch, 0)

    def work() -> None:
        optimizer.zero_grad()
        with precision(device):
            loss = torch.stack(list(method.losses(batch, method.features(batch)).values())).sum()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return work
