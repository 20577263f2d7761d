"""Every method's global term by softmax or by sigmoid, for encoders with and without a logit bias."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lightning import seed_everything

from datamodules import GrainSampling
from datamodules.batch import Grain
from lightning_modules import BetaClip, ClipFinetune, GrainClip, HarmoClip, MulClip, MultiPositiveClip, OptimConfig
from lightning_modules.methods.optimizers import adamw
from lightning_modules.networks.temperature import LogitBias
from losses import ClipLoss, MultiPositiveClipLoss, SigmoidLoss
from tests.helpers.tiny_run import TINY, data, first_batch, fit_method

METHODS = {
    ClipFinetune: {},
    MultiPositiveClip: {},
    BetaClip: {"pooling_heads": 2},
    MulClip: {"short_weight": 0.0},
    HarmoClip: {"lexeme": "phrase", "region_losses": []},
    GrainClip: {"pooling_heads": 2},
}


def with_bias(method_class: type, **settings):
    """A method whose encoder has a logit bias, as SigLIP's families have."""

    class Biased(method_class):
        def _global_loss(self, kind):
            self.encoder.bias = LogitBias(-3.0)
            return super()._global_loss(kind)

    return Biased(encoder=TINY, **settings)


@pytest.mark.parametrize("method_class", METHODS)
def test_sigmoid_is_used_where_the_encoder_has_a_bias(method_class):
    settings = METHODS[method_class]
    plain, biased = method_class(encoder=TINY, **settings), with_bias(method_class, **settings)
    assert type(plain.clip) is (MultiPositiveClipLoss if method_class is MultiPositiveClip else ClipLoss)
    assert type(biased.clip) is SigmoidLoss
    assert biased.logit_bias is None  # the encoder's is trained
    assert type(method_class(encoder=TINY, global_loss="sigmoid", **settings).logit_bias) is LogitBias


def test_the_term_is_siglips(tmp_path):
    batch = first_batch(tmp_path, 4, 8)
    method = ClipFinetune(encoder=TINY, global_loss="sigmoid")
    features = method.features(batch)
    texts = features.texts_at(batch.grains[Grain.CAPTION])[:, 0]
    logits = method.encoder.logit_scale * features.images.image @ texts.T - 10.0
    expected = -torch.nn.functional.logsigmoid((2 * torch.eye(4) - 1) * logits).sum() / 4
    torch.testing.assert_close(method.losses(batch, features)["global"], expected)


@pytest.mark.parametrize("method_class", METHODS)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_all_that_asks_for_a_gradient_gets_one(tmp_path, method_class, kind):
    """DDP waits for every parameter that asks for a gradient; a bias without a sigmoid must not ask."""
    batch = first_batch(tmp_path, 4, 8)
    method = with_bias(method_class, global_loss=kind, **METHODS[method_class])
    torch.stack(list(method.losses(batch, method.features(batch)).values())).sum().backward()
    idle = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert (method.encoder.bias.logit_bias.grad is not None) == (kind == "sigmoid")


def test_the_bias_is_trained_with_the_temperatures(tmp_path):
    seed_everything(0, verbose=False)
    method = ClipFinetune(
        encoder=TINY, global_loss="sigmoid", optim=OptimConfig(lr=1e-3, temperature_lr=0.1, warmup_steps=0)
    )
    groups = {group["name"]: group for group in adamw(method, method.new_modules(), method.optim).param_groups}
    assert any(p is method.logit_bias.logit_bias for p in groups["temperatures"]["params"])
    assert groups["temperatures"]["weight_decay"] == 0
    fit_method(tmp_path, method, data(tmp_path, sampling=GrainSampling(1, 1)), 2)
    assert method.logit_bias().item() != -10.0


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="global_loss must be auto, softmax or sigmoid, got 'clip'"):
        ClipFinetune(encoder=TINY, global_loss="clip")  # pyright: ignore[reportArgumentType]


def test_a_method_that_reads_patches_says_so_at_the_start(monkeypatch):
    monkeypatch.setattr("lightning_modules.networks.encoder.DualEncoder.grid", (0, 0))
    for method_class in (BetaClip, MulClip, HarmoClip, GrainClip):
        with pytest.raises(ValueError, match=f"^{method_class.__name__} compares texts with patches"):
            method_class(encoder=dataclasses.replace(TINY))
    ClipFinetune(encoder=TINY)
    MultiPositiveClip(encoder=TINY)
