"""GrainClip: each term is the one of the method that it comes from, and sentences take the images without boxes."""

from __future__ import annotations

import pytest
import torch

from datamodules.batch import Grain
from datamodules.sample import Region
from lightning_modules import BetaClip, ClipFinetune, GrainClip, HarmoClip, MulClip, OptimConfig
from lightning_modules.methods.data_check import MethodError
from losses import SoftmaxWeights, SubcaptionLoss
from losses.subcaption import aggregate
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_regions import first_batch, region_data
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing, fit_method

WEIGHTS = {"short_weight": 0.6, "local_weight": 0.7, "region_weight": 0.3, "sentence_weight": 0.4}


@pytest.fixture
def shards(tmp_path):
    """Twelve samples of two sentences; those with an even number have boxes, half of these without a phrase."""
    samples = []
    for number in range(12):
        boxes = [Region((0.1, 0.2, 0.6, 0.9), 0 if number % 4 == 0 else None, "a")] if number % 2 == 0 else []
        samples.append(make_sample(number, regions=tuple(boxes)))
    return [str(write_tar(tmp_path / "train-000.tar", samples))]


@pytest.fixture
def batch(shards):
    return first_batch(shards, sentences=2, summaries=1)


def make(method=GrainClip, **settings):
    torch.manual_seed(0)
    return method(encoder=TINY, **settings).double()


def terms(method, batch):
    return method.losses(batch, method.features(batch))


def test_each_term_is_that_of_the_method_it_comes_from(batch):
    ours = make(**WEIGHTS, pooling_heads=2)
    found = terms(ours, batch)
    assert set(found) == {"global", "short", "beta_cal", "region", "sentence"}
    beta = make(BetaClip, objective="ce", local_weight=0.7, pooling_heads=2)
    beta.load_state_dict(ours.state_dict(), strict=False)
    harmo = make(HarmoClip, lexeme="phrase", lexeme_weight=0.3, region_losses=[])
    mul = make(MulClip, short_weight=0.6, word_weight=0.0, subcaption_weight=0.0)
    terms_of = (
        (beta, {"global": "global", "beta_cal": "beta_cal"}),
        (harmo, {"region": "lexeme_region"}),
        (mul, {"short": "short"}),
    )
    for other, names in terms_of:
        other.encoder.load_state_dict(ours.encoder.state_dict())
        theirs = terms(other, batch)
        for mine, name in names.items():
            torch.testing.assert_close(found[mine], theirs[name], rtol=0, atol=1e-13)


def test_sentences_take_the_images_whose_boxes_teach_nothing(batch):
    method = make(**WEIGHTS)
    features = method.features(batch)
    boxed = {int(batch.regions.image[row]) for row in batch.regions.links[:, 0]}
    others = [image for image in range(len(batch.images)) if image not in boxed]
    assert 0 < len(boxed) < 6
    assert len(set(batch.regions.image.tolist())) > len(boxed)  # a box without a phrase does not count
    sentences = batch.grains[Grain.SENTENCE]
    texts, valid = features.texts_at(sentences)[others], sentences.valid[others]
    gathered = aggregate(features.images.patches[others], texts, valid, SoftmaxWeights())
    ids = batch.texts.ids[sentences.index][others]
    expected = SubcaptionLoss()(gathered, texts, valid, method.encoder.logit_scale, ids)
    found = method.losses(batch, features)["sentence"]
    torch.testing.assert_close(found, 0.4 * expected, rtol=0, atol=1e-13)
    assert method.extra_metrics(batch, features)["regions/boxed_image_share"] == len(boxed) / len(batch.images)


def test_without_the_boxes_term_all_images_learn_from_sentences(batch):
    ours = make(short_weight=0.0, local_weight=0.0, region_weight=0.0, sentence_weight=0.4)
    mul = make(MulClip, short_weight=0.0, word_weight=0.0, subcaption_weight=0.4, calibration=None, patches="raw")
    mul.encoder.load_state_dict(ours.encoder.state_dict())
    assert set(terms(ours, batch)) == {"global", "sentence"}
    torch.testing.assert_close(terms(ours, batch)["sentence"], terms(mul, batch)["subcaption"], rtol=0, atol=1e-13)


def test_without_its_terms_it_is_clip(batch):
    ours, clip = make(short_weight=0, local_weight=0, region_weight=0, sentence_weight=0), make(ClipFinetune)
    clip.load_state_dict(ours.state_dict())
    assert list(ours.required_grains()) == [Grain.CAPTION]
    gradients = []
    for method in (ours, clip):
        found = terms(method, batch)
        assert set(found) == {"global"}
        found["global"].backward()
        gradients.append({name: p.grad for name, p in method.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


def test_every_parameter_learns_and_caching_changes_nothing(batch):
    method = make(**WEIGHTS)
    sum(terms(method, batch).values()).backward()
    without = [name for name, p in method.named_parameters() if p.grad is None]
    assert not without
    assert set(method.logit_scales()) == {"global", "pooling", "region"}
    assert_caching_changes_nothing(lambda: make(**WEIGHTS), batch)


@pytest.mark.slow
def test_it_trains(shards, tmp_path):
    method = GrainClip(encoder=TINY, optim=OptimConfig(lr=1e-2, warmup_steps=2))
    scalars = fit_method(tmp_path / "run", method, region_data(shards, sentences=2, summaries=1), epochs=16)
    for name in ("global", "short", "beta_cal", "region", "sentence"):
        losses = scalars[f"train/loss_{name}"]
        assert sum(losses[-6:]) < sum(losses[:6]), (name, losses)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"summaries": 0}, "data.sampling.summaries must be 1"),
        ({"sentences": 0}, "data.sampling.sentences must be 1 or more"),
        ({"phrases": 0}, "data.sampling.phrases must be"),
    ],
)
def test_data_that_a_term_gets_nothing_of_is_refused(shards, sampling, message, tmp_path):
    data = region_data(shards, **({"sentences": 2, "summaries": 1} | sampling))
    with pytest.raises(MethodError, match=message):
        fit_method(tmp_path / "run", GrainClip(encoder=TINY), data, epochs=1)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_below_zero_are_refused(name):
    with pytest.raises(ValueError, match=name):
        GrainClip(encoder=TINY, **{name: -0.5})
