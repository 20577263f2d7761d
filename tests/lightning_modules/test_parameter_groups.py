"""Learning rates by tower and by block: the optimiser's groups, the logged rates, and their way through a resume."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import BetaClip, ClipFinetune, OptimConfig
from lightning_modules.callbacks import RateMonitor
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.methods.optimizers import adamw
from tests.helpers.tiny_run import TINY, fit

THREE = replace(TINY, image_layers=3)


def groups_by_name(optimizer):
    """Group, rate and decay of each parameter."""
    return {
        name: (group["name"], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


def optimizer_of(method, config):
    return adamw(method, method.new_modules(), config)


def test_rates_by_tower_and_block_by_hand():
    config = OptimConfig(
        lr=1e-3, image_lr=1e-4, layer_decay=0.5, added_modules_lr=7e-3, temperature_lr=3e-3, weight_decay=0.1
    )
    groups = groups_by_name(optimizer_of(BetaClip(encoder=THREE, pooling_heads=2), config))
    expected = {
        "encoder.image_tower.cls_token": ("image_tower_embeddings", 1e-4 / 8, 0.1),
        "encoder.image_tower.pos_embed": ("image_tower_embeddings", 1e-4 / 8, 0.1),
        "encoder.image_tower.patch_embed.proj.weight": ("image_tower_embeddings", 1e-4 / 8, 0.1),
        "encoder.image_tower.norm_pre.weight": ("image_tower_embeddings_no_decay", 1e-4 / 8, 0.0),
        "encoder.image_tower.blocks.0.attn.qkv.weight": ("image_tower_block_00", 1e-4 / 4, 0.1),
        "encoder.image_tower.blocks.1.mlp.fc1.bias": ("image_tower_block_01_no_decay", 1e-4 / 2, 0.0),
        "encoder.image_tower.blocks.2.mlp.fc2.weight": ("image_tower", 1e-4, 0.1),
        "encoder.image_tower.norm.weight": ("image_tower_no_decay", 1e-4, 0.0),
        "encoder.image_tower.projection.weight": ("image_tower", 1e-4, 0.1),
        "encoder.text_tower.transformer.embeddings.token_embedding.weight": ("text_tower_embeddings", 1e-3 / 2, 0.1),
        "encoder.text_tower.transformer.embeddings.position_embedding.trained": (
            "text_tower_embeddings", 1e-3 / 2, 0.1,
        ),
        "encoder.text_tower.transformer.encoder.layers.0.self_attn.q_proj.weight": ("text_tower", 1e-3, 0.1),
        "encoder.text_tower.transformer.final_layer_norm.bias": ("text_tower_no_decay", 1e-3, 0.0),
        "encoder.text_tower.projection.weight": ("text_tower", 1e-3, 0.1),
        "pooling.attn.in_proj_weight": ("new", 7e-3, 0.1),
        "encoder.temperature.log_scale": ("temperatures", 3e-3, 0.0),
    }  # fmt: skip
    for name, (group, rate, decay) in expected.items():
        assert groups[name] == (group, pytest.approx(rate), decay), name


def test_one_group_for_each_rate_of_a_tower():
    method = ClipFinetune(encoder=THREE)
    decayed = [g["name"] for g in optimizer_of(method, OptimConfig(layer_decay=0.9)).param_groups if g["weight_decay"]]
    assert sorted(decayed) == [
        "image_tower", "image_tower_block_00", "image_tower_block_01", "image_tower_embeddings",
        "text_tower", "text_tower_embeddings",
    ]  # fmt: skip
    by_tower = {g["name"]: g["lr"] for g in optimizer_of(method, OptimConfig(lr=1e-3, text_lr=2e-3)).param_groups}
    assert by_tower == {
        "image_tower": 1e-3, "image_tower_no_decay": 1e-3, "text_tower": 2e-3, "text_tower_no_decay": 2e-3,
        "temperatures": 1e-3,
    }  # fmt: skip
    same = {g["name"] for g in optimizer_of(method, OptimConfig(lr=1e-3, image_lr=1e-3)).param_groups}
    assert same == {"towers", "towers_no_decay", "temperatures"}


def test_every_trained_parameter_is_in_one_group():
    method = BetaClip(encoder=THREE, pooling_heads=2, freeze=FreezeConfig(image_tower=1))
    optimizer = optimizer_of(method, OptimConfig(layer_decay=0.5))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, p in method.named_parameters() if p.requires_grad)
    assert "image_tower_block_00" not in {group["name"] for group in optimizer.param_groups}


def test_tensorboard_shows_each_rate(tmp_path):
    optim = OptimConfig(lr=1e-2, text_lr=1e-3, layer_decay=0.5, warmup_steps=1, final_lr_ratio=0.5)
    fit(tmp_path, RateMonitor(), epochs=1, method=lambda **base: ClipFinetune(**{**base, "optim": optim}))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    rates = {
        tag.removeprefix("lr-AdamW/"): [event.value for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith("lr-AdamW/")
    }
    shares = [0.5, 1.0, 0.75]  # warm-up, the peak, the middle of a cosine of two steps to a half
    peaks = {"image_tower": 1e-2, "image_tower_block_00": 5e-3, "image_tower_embeddings": 2.5e-3, "text_tower": 1e-3}
    for name, peak in peaks.items():
        assert rates[name] == pytest.approx([peak * share for share in shares]), name


def trained_once(method, config):
    optimizer = optimizer_of(method, config)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.full_like(parameter, 0.5) * parameter.detach().abs().mean()
    optimizer.step()
    return optimizer


def averages(method, optimizer):
    name_of = {id(p): name for name, p in method.named_parameters()}
    return {name_of[id(p)]: state["exp_avg"] for p, state in optimizer.state.items()}


def test_averages_follow_their_parameters_into_other_groups():
    """A run that goes on with other rates and another frozen part."""
    method = ClipFinetune(encoder=THREE, freeze=FreezeConfig(text_tower="all"))
    before = trained_once(method, OptimConfig(lr=1e-3))
    old = averages(method, before)
    method.encoder.text_tower.requires_grad_(True)
    method.encoder.image_tower.patch_embed.requires_grad_(False)
    after = optimizer_of(method, OptimConfig(lr=1e-4, image_lr=2e-4, layer_decay=0.5))
    after.load_state_dict(before.state_dict())
    new = averages(method, after)
    assert set(new) == {name for name in old if "patch_embed" not in name}
    assert all(torch.equal(average, old[name]) for name, average in new.items())
    assert groups_by_name(after)["encoder.image_tower.projection.weight"][:2] == ("image_tower", 2e-4)
    assert len(after.state_dict()["state"]) == len(new)
    trained_once(method, OptimConfig())
    for parameter in method.parameters():
        parameter.grad = torch.ones_like(parameter)
    after.step()
    assert len(after.state) == sum(p.requires_grad for p in method.parameters())


def test_a_state_without_names_is_read_by_its_order():
    method = ClipFinetune(encoder=TINY)
    before = trained_once(method, OptimConfig())
    state = before.state_dict()
    for group in state["param_groups"]:
        del group["param_names"]
    after = optimizer_of(method, OptimConfig(lr=5e-5))
    after.load_state_dict(state)
    old, new = averages(method, before), averages(method, after)
    assert old.keys() == new.keys()
    assert all(torch.equal(average, old[name]) for name, average in new.items())
    assert {group["lr"] for group in after.param_groups} == {5e-5}
    other = optimizer_of(method, OptimConfig(layer_decay=0.5))
    with pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict(state)


@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.5, float("nan")])
def test_layer_decay_is_checked(layer_decay):
    with pytest.raises(ValueError, match=r"optim\.layer_decay must lie in \(0, 1\], got "):
        OptimConfig(layer_decay=layer_decay)


@pytest.mark.parametrize("name", ["image_lr", "text_lr"])
def test_rates_are_checked(name):
    with pytest.raises(ValueError, match=rf"optim\.{name} must be 0 or more, got -1"):
        OptimConfig(**{name: -1.0})
    assert partial(OptimConfig, **{name: 0.0})()
