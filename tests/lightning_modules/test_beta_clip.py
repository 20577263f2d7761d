"""β-CLIP's module: its terms, weights by grain, and the start from a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datamodules import GrainSampling, GranularityData
from datamodules.module import normalise
from lightning_modules import BetaClip
from lightning_modules.beta_clip import GrainWeights
from tests.tiny import write_shards
from tests.tiny_run import TINY


@pytest.fixture
def batch(tmp_path):
    shards = [str(shard) for shard in write_shards(tmp_path, 8, 1)]
    data = GranularityData(shards, batch_size=8, workers=0, image_size=16, context_length=77, sampling=GrainSampling())
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    return batch._replace(images=normalise(batch.images))


def terms(batch, **settings):
    torch.manual_seed(0)
    method = BetaClip(encoder=TINY, **settings)
    with torch.no_grad():
        return method.losses(batch, method.features(batch))


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_equal_grain_weights_are_no_weights(batch, objective):
    plain = terms(batch, objective=objective)
    for settings in (GrainWeights(1, 1, 1), GrainWeights(3, 3, 3)):
        torch.testing.assert_close(terms(batch, objective=objective, grain_weights=settings), plain)
    changed = terms(batch, objective=objective, grain_weights=GrainWeights(phrase=0.1))
    assert changed["global"] == plain["global"]
    assert changed["beta_cal"] != plain["beta_cal"]


def test_caption_alone_is_beta_cal_over_captions(batch):
    """Where only captions count, CE's rows are the captions'; the other texts stay in the denominators."""
    caption = terms(batch, grain_weights=GrainWeights(1, 0, 0))["beta_cal"]
    rest = terms(batch, grain_weights=GrainWeights(0, 1, 1))["beta_cal"]
    counts = [batch.grains[g].valid.sum().item() for g in batch.grains]
    whole = terms(batch)["beta_cal"]
    captions, others = 8, sum(counts) - 8
    torch.testing.assert_close((captions * caption + others * rest) / (captions + others), whole)


def test_weights_of_terms(batch):
    plain, weighed = terms(batch), terms(batch, global_weight=0.25, local_weight=3.0)
    torch.testing.assert_close(weighed["global"], plain["global"] / 4)
    torch.testing.assert_close(weighed["beta_cal"], plain["beta_cal"] * 3)


def test_starts_from_a_checkpoint(batch, tmp_path):
    torch.manual_seed(5)
    source = BetaClip(encoder=TINY)
    source.encoder.save_pretrained(tmp_path / "weights")
    started = BetaClip(encoder=TINY, pretrained=str(tmp_path / "weights"))
    for name, tensor in source.encoder.state_dict().items():
        torch.testing.assert_close(started.encoder.state_dict()[name], tensor, msg=name)
    longer = BetaClip(encoder=replace(TINY, context_length=248), pretrained=str(tmp_path / "weights"))
    assert longer.encoder.config.context_length == 248
    with pytest.raises(ValueError, match=r"encoder\.image_size must be 16, the picture size of .*, got 32"):
        BetaClip(encoder=replace(TINY, image_size=32), pretrained=str(tmp_path / "weights"))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_bad_grain_weights(value):
    with pytest.raises(ValueError, match=r"grain_weights\.sentence must be 0 or more"):
        GrainWeights(sentence=value)
