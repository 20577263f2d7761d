"""Settings that stand as defaults of arguments belong to all that use them: they cannot be changed in place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from datamodules import GrainSampling, SceneSet, SkipPolicy
from datamodules.batching.region_sampling import RegionSampling
from datamodules.shards.download import FetchPolicy
from lightning_modules import CropTarget, ImageTarget, OptimConfig, PhraseTarget
from lightning_modules.methods.beta_clip import GrainWeights
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.mul_clip import Calibration, Reconstruction
from lightning_modules.networks import EncoderConfig
from lightning_modules.networks.lora import LoraConfig


@pytest.mark.parametrize(
    "settings",
    [
        OptimConfig, EncoderConfig, MemoryConfig, GrainWeights, GrainSampling, RegionSampling, SceneSet, SkipPolicy,
        FetchPolicy, FreezeConfig, LoraConfig, CropTarget, ImageTarget, PhraseTarget, Calibration, Reconstruction,
    ],
)  # fmt: skip
def test_they_are_frozen(settings):
    with pytest.raises(FrozenInstanceError):
        setattr(settings(), fields(settings)[0].name, 1)
