"""The host does not wait for the device in a training step: its work is handed over ahead of the device's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_modules import BetaClip, ClipFinetune, GrainClip, HarmoClip, MulClip, MultiPositiveClip
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.harmo_region_losses import CropTarget, ImageTarget, PhraseTarget
from losses.core.process_group import ProcessGroup
from tests.helpers.ranks import run_on_ranks
from tests.helpers.step_waits import STEPS, WARM, step_waits
from tests.helpers.tiny_methods import AS_PUBLISHED
from tests.helpers.tiny_run import TINY

pytestmark = pytest.mark.filterwarnings("ignore")
SIXTEEN_PATCHES = replace(TINY, image_size=32)
METHODS = {
    "clip": (ClipFinetune, {}, 3),
    "sigmoid": (ClipFinetune, {"global_loss": "sigmoid"}, 3),
    "multi_positive": (MultiPositiveClip, {}, 3),
    "beta_clip_ce": (BetaClip, {"objective": "ce"}, 3),
    "beta_clip_bce": (BetaClip, {"objective": "bce"}, 3),
    "mul_clip": (MulClip, AS_PUBLISHED, 3),
    "mul_clip_clim": (MulClip, {"word_loss": "clim"}, 3),
    "harmo_clip": (HarmoClip, {"lexeme": "mean"}, 6),
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


def waits_and_counts(folder, names):
    """Of each method's steps: the places where this rank waits, and how often it asks the ranks for counts."""
    found, asked = {}, []
    for name in ("counts", "largest"):
        whole = getattr(ProcessGroup, name)
        setattr(ProcessGroup, name, lambda group, *args, whole=whole: asked.append(group.size) or whole(group, *args))
    for name in names:
        method, settings, _ = METHODS[name]
        asked.clear()
        own = Path(folder, name, str(torch.distributed.get_rank()))
        places = step_waits(own, method(encoder=SIXTEEN_PATCHES, **settings), context_length=77)
        found[name] = [dict(step) for step in places], asked.count(2) / (STEPS + WARM + 1)
    return found


@pytest.mark.slow
def test_waits_of_a_step_on_two_ranks(tmp_path):
    """One more for each collective of counts, which say how large the gathered tensors are."""
    for found in run_on_ranks(waits_and_counts, 2, str(tmp_path), list(METHODS)):
        for name, (steps, counts) in found.items():
            assert counts >= 1, name
            for places in steps:
                assert 1 <= sum(places.values()) <= METHODS[name][2] + counts, (name, places)


@pytest.mark.slow
def test_waits_of_a_step_by_parts(tmp_path):
    method = BetaClip(encoder=SIXTEEN_PATCHES, memory=MemoryConfig(grad_cache_chunk=4))
    for places in step_waits(tmp_path, method, context_length=77):
        assert places.total() <= 3, dict(places)
