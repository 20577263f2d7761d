"""Every method with a tiny encoder, and data that all of them can learn from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from datamodules import GrainSampling, GranularityData, Squash
from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import (
    BetaClip,
    ClipFinetune,
    GrainClip,
    HarmoClip,
    Method,
    MulClip,
    MultiPositiveClip,
    OptimConfig,
)
from lightning_modules.methods.mul_clip import Calibration
from tests.helpers.tiny_regions import write_regions
from tests.helpers.tiny_run import TINY

AS_PUBLISHED = {
    "word_weight": 1.0,
    "subcaption_weight": 1.0,
    "calibration": Calibration(gain=1.0),
    "patches": "calibrated",
}
_TINY = {"encoder": TINY, "optim": OptimConfig(lr=1e-2, warmup_steps=2)}
METHODS: dict[str, Callable[..., Method]] = {
    "clip": partial(ClipFinetune, **_TINY),
    "multi_positive": partial(MultiPositiveClip, **_TINY),
    "beta_ce": partial(BetaClip, "ce", pooling_heads=2, **_TINY),
    "beta_bce": partial(BetaClip, "bce", normalize_by="row", bias=-3.0, pooling_heads=2, **_TINY),
    "harmo": partial(HarmoClip, lexeme="mean", lexeme_weight=1, **_TINY),
    "mul": partial(MulClip, **AS_PUBLISHED, **_TINY),
    "grain": partial(GrainClip, pooling_heads=2, **_TINY),
}


def method_data(folder: Path, batch_size: int = 6, image_size: int = 16) -> GranularityData:
    """Twelve samples with captions, sentences, phrases, boxes and crops."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = write_regions(folder)
    return GranularityData(
        shards, shards, batch_size=batch_size, val_batch_size=6, num_workers=0, image_size=image_size,
        context_length=77, sampling=GrainSampling(2, 3, summaries=1), regions=RegionSampling(crops=1),
        train_transform=Squash(),
    )  # fmt: skip
