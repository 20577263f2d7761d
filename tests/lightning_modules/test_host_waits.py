"""The host does not wait for the device in a training step: its work is handed over ahead of the device's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_modules import BetaClip, ClipFinetune, GrainClip, HarmoClip, MulClip, MultiPositiveClip
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.harmo_region_losses import CropTarget, ImageTarget, PhraseTarget
from tests.helpers.step_waits import step_waits
from tests.helpers.tiny_run import TINY

pytestmark = pytest.mark.filterwarnings("ignore")
SIXTEEN_PATCHES = replace(TINY, image_size=32)
METHODS = {
    "clip": (ClipFinetune, {}, 3),
    "sigmoid": (ClipFinetune, {"global_loss": "sigmoid"}, 3),
    "multi_positive": (MultiPositiveClip, {}, 3),
    "beta_clip_ce": (BetaClip, {"objective": "ce"}, 3),
    "beta_clip_bce": (BetaClip, {"objective": "bce"}, 3),
    "mul_clip": (MulClip, {}, 3),
    "mul_clip_clim": (MulClip, {"word_loss": "clim", "patches": "raw"}, 3),
    "harmo_clip": (HarmoClip, {}, 6),
    "harmo_clip_all": (HarmoClip, {"region_losses": [CropTarget(), PhraseTarget(), ImageTarget()]}, 6),
    "harmo_clip_positive": (HarmoClip, {"same_lemma": "positive", "lexeme": "phrase"}, 6),
    "grain_clip": (GrainClip, {}, 6),
}


@pytest.fixture(autouse=True)
def plain_algorithms():
    """What users train with, whatever an earlier test left behind: CUDA's RoIAlign has no deterministic backward."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize(("method", "settings", "most"), METHODS.values(), ids=METHODS)
def test_waits_of_a_step(tmp_path, method, settings, most):
    for places in step_waits(tmp_path, method(encoder=SIXTEEN_PATCHES, **settings), context_length=77):
        assert places.total() <= most, dict(places)


@pytest.mark.slow
def test_waits_of_a_step_by_parts(tmp_path):
    method = BetaClip(encoder=SIXTEEN_PATCHES, memory=MemoryConfig(grad_cache_chunk=4))
    for places in step_waits(tmp_path, method, context_length=77):
        assert places.total() <= 3, dict(places)
