"""HarmoCLIP-style training end to end, and what it refuses to start with."""

from __future__ import annotations

import pytest
import torch
from lightning import seed_everything

from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import CropTarget, HarmoClip, OptimConfig
from lightning_modules.callbacks import BestCheckpoint, LastCheckpoint
from lightning_modules.cli.read_checkpoint import encoder_of, read
from tests.helpers.tiny_regions import region_data, write_regions
from tests.helpers.tiny_run import TINY, fit_method


@pytest.fixture
def shards(tmp_path):
    return write_regions(tmp_path)


def fit(folder, datamodule, epochs=1, **settings):
    seed_everything(3)
    several = {"lexeme": "mean", "lexeme_weight": 1.0}
    method = HarmoClip(encoder=TINY, optim=OptimConfig(lr=1e-2, warmup_steps=2), **(several | settings))
    return method, fit_method(folder, method, datamodule, epochs, LastCheckpoint(), BestCheckpoint())


@pytest.mark.slow
def test_trains_and_shows_what_is_watched(tmp_path, shards):
    _, seen = fit(tmp_path / "run", region_data(shards), 20)
    for term in ("loss", "loss_global", "loss_lexeme_region", "loss_region_crop"):
        loss = seen[f"train/{term}"]
        assert sum(loss[-5:]) < 0.9 * sum(loss[:5]), term
    assert {
        "regions/boxes_per_image",
        "regions/lexemes_per_image",
        "logit_scale/region",
        "val/loss_lexeme_region",
    } <= set(seen)


def test_an_averaged_student_is_validated_and_exported(tmp_path, shards):
    targets = [CropTarget(teacher="frozen", student_share=0.7)]
    method, _ = fit(tmp_path / "run", region_data(shards), 2, region_losses=targets)
    assert method.teacher is not None
    exported = encoder_of(read(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    moved = 0
    for name, weight in exported.state_dict().items():
        student, teacher = method.encoder.state_dict()[name], method.teacher.state_dict()[name]
        torch.testing.assert_close(weight, 0.7 * student + 0.3 * teacher)
        moved += not torch.equal(student, teacher)
    assert moved > 5
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(method.encode_image(pixels), exported.encode_image(pixels).image)


@pytest.mark.parametrize(
    ("sampling", "settings", "message"),
    [
        ({"phrases": 0}, {}, r"data\.sampling\.phrases must be 1 or more where lexeme_weight is above 0"),
        ({"caption": "sampled", "sentences": 2}, {}, r"data\.sampling\.caption must be whole"),
        ({"regions": RegionSampling()}, {}, r"data\.regions\.crops must be 1 or more for CropTarget"),
    ],
)
def test_data_that_cannot_teach_is_refused(tmp_path, shards, sampling, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", region_data(shards, **sampling), **settings)
