"""Frozen parts of the towers: no gradient, no state, no change, whatever else a run does; and the counts it prints."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from lightning import Callback
from timm.layers.norm_act import GroupNormAct
from timm.layers.std_conv import ScaledStdConv2d
from timm.models.nfnet import NormFreeBlock
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from lightning_modules import BetaClip, ClipFinetune, HarmoClip
from lightning_modules.callbacks import AverageWeights
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.parameter_counts import Count, parameter_counts, total
from lightning_modules.networks.flops import training_flops
from lightning_modules.networks.lora import LoraConfig
from lightning_modules.networks.tower_parts import norms
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing, first_batch, fit

TIMM = replace(TINY, image_size=64, patch_size=8, image_width=128, image_layers=4, image_heads=4)
IMAGE, TEXT = "encoder.image_tower.", "encoder.text_tower."
EXTENTS = {  # of the image tower: what is still trained of it
    "none": r"",
    "all": r"nothing",
    "all_but_norms": r"norm",
    "0": r"(blocks|norm\.|projection)",
    "1": r"(blocks\.1|norm\.|projection)",
    "2": r"(norm\.|projection)",
}


def extent(word):
    return int(word) if word.isdecimal() else word


def trained(method):
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("word", EXTENTS)
def test_what_is_frozen(word):
    method = ClipFinetune(encoder=TINY, freeze=FreezeConfig(image_tower=extent(word)))
    names = {name for name, _ in method.named_parameters()}
    expected = {name for name in names if not name.startswith(IMAGE)}
    rest = [name for name in names if name.startswith(IMAGE)]
    pattern = rf"(.*\.)?{EXTENTS[word]}" if word == "all_but_norms" else EXTENTS[word]
    expected |= {name for name in rest if re.match(pattern, name.removeprefix(IMAGE))}
    assert trained(method) == expected


def test_norms_are_those_of_both_kinds_of_blocks():
    both = FreezeConfig("all_but_norms", "all_but_norms")
    names = trained(ClipFinetune(encoder=TINY, freeze=both))
    assert f"{IMAGE}norm_pre.weight" in names
    assert f"{IMAGE}blocks.0.norm2.bias" in names
    assert f"{TEXT}transformer.encoder.layers.0.layer_norm1.weight" in names
    assert f"{TEXT}transformer.final_layer_norm.bias" in names
    assert len(names) == 2 * (1 + 2 * 2 + 1) + 2 * (2 + 1) + 1  # and the temperature


def test_norms_of_other_classes_than_torchs_are_norms_too():
    """timm's RMS norms, whose class is its own; T5's, which are no class of torch's either."""
    rms = replace(TIMM, image_tower="timm/test_vit4", image_size=160)
    names = trained(ClipFinetune(encoder=rms, freeze=FreezeConfig("all_but_norms", "all")))
    blocks = {f"{IMAGE}trunk.blocks.{number}.norm{place}.weight" for number in range(9) for place in (1, 2)}
    assert names >= blocks
    assert all("norm" in name for name in names - {"encoder.temperature.log_scale"})
    gain = NormFreeBlock(8, skipinit=True, act_layer=nn.ReLU, conv_layer=ScaledStdConv2d)  # the gain is no norm's
    tower = nn.Sequential(nn.Linear(4, 4), T5LayerNorm(4), GroupNormAct(4, 2), gain)
    assert [id(p) for p in norms(tower)] == [id(p) for layer in tower[1:3] for p in layer.parameters()]


def test_a_tower_without_norms_is_told_of():
    without = replace(TIMM, image_tower="timm/test_nfnet")
    with pytest.raises(
        ValueError, match=r"^freeze\.image_tower must be .* no normalisation layers with weights, got all"
    ):
        ClipFinetune(encoder=without, freeze=FreezeConfig("all_but_norms"))


class Steps(Callback):
    """Parameters with a gradient, and with a state in the optimiser, after a step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        named = dict(pl_module.named_parameters())
        state = trainer.optimizers[0].state
        self.with_gradient = {name for name, p in named.items() if p.grad is not None}
        self.with_state = {name for name, p in named.items() if p in state}


@pytest.mark.parametrize("memory", [MemoryConfig(), MemoryConfig(3), MemoryConfig(None, True)], ids=str)
@pytest.mark.parametrize("freeze", [FreezeConfig("all", 0), FreezeConfig(1, "all_but_norms")], ids=str)
def test_frozen_weights_have_no_gradient_no_state_and_do_not_move(tmp_path, freeze, memory):
    steps = Steps()
    torch.manual_seed(3)
    run = fit(tmp_path, steps, AverageWeights(0.5), epochs=1, freeze=freeze, memory=memory, pooling_heads=2)
    method = run.lightning_module
    names = trained(method)
    assert steps.with_gradient == steps.with_state == names
    assert not any(name.startswith("averaged.") for name in names)
    start = fit(tmp_path / "start", epochs=1, freeze=freeze, pooling_heads=2, trainer={"limit_train_batches": 0})
    before = dict(start.lightning_module.named_parameters())
    for name, weight in method.named_parameters():
        if not name.startswith("averaged."):
            assert torch.equal(weight, before[name]) == (name not in names), name
    for name, weight in method.encoder.named_parameters():
        if not weight.requires_grad:
            assert torch.equal(method.averaged.get_parameter(name), weight), name


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    batch = first_batch(tmp_path_factory.mktemp("shards"), 6, 6)
    return batch._replace(images=batch.images.double())


FREEZES = [FreezeConfig("all", "none"), FreezeConfig(1, "all"), FreezeConfig("all_but_norms", 0)]


@pytest.mark.parametrize("freeze", FREEZES, ids=str)
def test_gradient_caching_and_checkpointing_change_nothing(batch, freeze):
    def make(memory=MemoryConfig()):
        torch.manual_seed(0)
        return ClipFinetune(encoder=TINY, freeze=freeze, memory=memory).double()

    assert_caching_changes_nothing(make, batch)
    grads = {}
    for again in (False, True):
        method = make(MemoryConfig(activation_checkpointing=again)).train()
        torch.stack(list(method.losses(batch, method.features(batch)).values())).sum().backward()
        grads[again] = {name: p.grad for name, p in method.named_parameters()}
    torch.testing.assert_close(grads[True], grads[False], rtol=1e-8, atol=1e-12)
    assert all((grad is None) == (name not in trained(method)) for name, grad in grads[True].items())


def test_a_frozen_tower_keeps_no_activations(batch):
    kept = []
    sizes = {}
    for freeze in (FreezeConfig(), FreezeConfig(1), FreezeConfig("all")):
        encoder = ClipFinetune(encoder=TINY, freeze=freeze).double().train().encoder
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            features = encoder.encode_image(batch.images)
        sizes[freeze.image_tower] = sum(kept)
        assert features.image.requires_grad == (freeze.image_tower != "all")
    assert sizes["all"] == 0
    assert 0 < sizes[1] < 0.7 * sizes["none"]


class Stopped(Exception):
    pass


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4:
            raise Stopped


@pytest.mark.slow
@pytest.mark.parametrize("method", [BetaClip, HarmoClip])
def test_a_resumed_run_is_the_whole_run(tmp_path, method):
    settings = {"method": method, "freeze": FreezeConfig(1, "all_but_norms"), "epochs": 2}
    settings |= {"region_losses": []} if method is HarmoClip else {}
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        fit(tmp_path / "parts", Stop(), **settings)
    parts = fit(tmp_path / "parts", **settings)
    wanted = whole.lightning_module.state_dict()
    for name, weight in parts.lightning_module.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


def test_counts_by_hand():
    """A tower of one block of width 16 in the image: counted by the shapes of its matrices."""
    method = BetaClip(encoder=TINY, pooling_heads=2, freeze=FreezeConfig("all", 1))
    counts = parameter_counts(method)
    width, block = 16, 12 * 16 * 16 + 13 * 16
    image = 2 * block + (3 * 64 + 1 + 5) * width + 4 * width + width * width
    embeddings = (49408 + 77) * width
    text = 2 * width + width * width  # the final norm and the projection are trained
    assert counts["image tower"] == Count(0, image)
    assert counts["text tower"] == Count(text, embeddings + block)
    added = sum(p.numel() for module in method.new_modules() for p in module.parameters())
    assert counts["added modules"] == Count(added, 0)
    assert total(counts.values()).trained == sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert sum(total(counts.values())) == sum(p.numel() for p in method.parameters())
    assert str(Count(1_500_000, 250_000)) == "1.5 M trained, 0.25 M frozen"


@pytest.mark.parametrize("value", ["al", -1, True, 1.5])
def test_extents_are_checked(value):
    with pytest.raises(ValueError, match=r"freeze\.text_tower must be none, all, all_but_norms or a number"):
        FreezeConfig(text_tower=value)


def test_a_tower_has_so_many_blocks():
    with pytest.raises(ValueError, match=r"freeze\.image_tower must be at most 2, the tower's blocks, got 3"):
        ClipFinetune(encoder=TINY, freeze=FreezeConfig(image_tower=3))


def test_adapters_freeze_the_tower_themselves():
    with pytest.raises(ValueError, match=r"freeze\.text_tower must be none where lora\.text_tower adapts the tower"):
        ClipFinetune(encoder=TINY, freeze=FreezeConfig("all", 1), lora=LoraConfig(image_tower=()))


@pytest.mark.parametrize(
    ("freeze", "lora", "passes"),
    [
        (FreezeConfig(), None, 3.0),
        (FreezeConfig("all"), None, 1.0),
        (FreezeConfig(0), None, 3.0),
        (FreezeConfig(1), None, 2.0),  # one pass of the first block, three of the second
        (FreezeConfig(2), None, 1.0),
        (FreezeConfig("all_but_norms"), None, 2.0 + 64 / (12 * 16 * 16 + 13 * 16)),
        (FreezeConfig(), LoraConfig(), 2.0),
    ],
)
def test_frozen_parts_cost_less(freeze, lora, passes):
    """In forward passes of the image tower, which has two blocks."""
    encoder = ClipFinetune(encoder=TINY, freeze=freeze, lora=lora).encoder
    text = 2.0 if lora else 3.0
    assert encoder.training_flops(4, 0, 0) == pytest.approx(training_flops(TINY, 4, 0, 0) * passes / 3)
    assert encoder.training_flops(0, 90, 900) == pytest.approx(training_flops(TINY, 0, 90, 900) * text / 3)
