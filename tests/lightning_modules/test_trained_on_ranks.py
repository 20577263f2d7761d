"""Frozen parts and LoRA on two ranks, by DDP and FSDP2: losses and weights of one rank, and checkpoints that go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.methods.freezing import FreezeConfig
from lightning_modules.networks.lora import LoraConfig
from tests.helpers.ranks import run_on_ranks
from tests.lightning_modules.ranked_run import Spec, train, train_all, write_uneven
from tests.lightning_modules.test_ranks_alike import check_alike, placed

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
TOWER = FreezeConfig("all")
PARTS = FreezeConfig("all_but_norms", 0)
FIRST = FreezeConfig(1, "all")
LORA = LoraConfig(rank=2, alpha=2.0)
SPECS = [
    Spec("beta_clip", "ddp", steps=6, freeze=TOWER, averaged=True),
    Spec("mul_clip", "whole", steps=6, freeze=TOWER, grad_cache_chunk=3),
    Spec("harmo_clip", "ddp", steps=6, freeze=PARTS, recompute=True),
    Spec("harmo_clip", "whole", steps=6, freeze=FIRST, recompute=True, accumulate=2, save="first.ckpt"),
    Spec("beta_clip", "sharded", steps=6, freeze=PARTS, averaged=True),
    Spec("beta_clip", "ddp", steps=6, lora=LORA, compiled=True),
    Spec("beta_clip", "whole", steps=6, lora=LORA, averaged=True, grad_cache_chunk=3, recompute=True),
    Spec("harmo_clip", "sharded", steps=6, lora=replace(LORA, image_tower=()), freeze=TOWER, save="lora.ckpt"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_uneven(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two(shards, folder):
    ranks = run_on_ranks(train_all, 2, [placed(spec, folder) for spec in SPECS], shards)
    return [[rank[i] for rank in ranks] for i in range(len(SPECS))]


def alone(spec, shards):
    return train(replace(spec, strategy="ddp", save=None, resume=None, compiled=False), shards, 1)


@pytest.mark.parametrize("number", range(len(SPECS)), ids=lambda n: f"{SPECS[n].method}-{SPECS[n].strategy}-{n}")
def test_two_ranks_are_one(number, two, shards):
    check_alike(two[number], alone(SPECS[number], shards))
    assert two[number][0].losses[0] != two[number][0].losses[-1]


def test_a_run_with_frozen_blocks_goes_on_alone(two, shards, folder):
    spec = placed(replace(SPECS[3], strategy="ddp", save=None, resume="first.ckpt"), folder)
    check_alike([train(spec, shards, 1)], alone(SPECS[3], shards), last=6)


def other_parts(spec, shards):
    """The error of a run that goes on under FSDP2."""
    try:
        train_all([spec], shards)
    except CheckpointError as error:
        return str(error)
    return "none"


@pytest.mark.parametrize("number", [3, 7])
def test_fsdp2_does_not_go_on_with_other_parts(number, two, shards, folder):
    spec = placed(replace(SPECS[number], save=None, resume=SPECS[number].save, freeze=FreezeConfig(2)), folder)
    spec = (
        replace(spec, lora=None) if number == 3 else replace(spec, lora=LoraConfig(image_tower=(), text_tower=("fc1",)))
    )
    told = run_on_ranks(other_parts, 1, spec, shards)[0]
    assert "was trained with other frozen parts, adapters or rates by part" in told
    assert "\n" not in told


def test_a_sharded_run_with_adapters_goes_on_and_is_read(two, shards, folder):
    spec = placed(replace(SPECS[7], save=None, resume="lora.ckpt"), folder)
    check_alike(run_on_ranks(train_all, 1, [spec], shards)[0], alone(SPECS[7], shards), last=3)
    encoder = encoder_of(read(folder / "lora.ckpt"))
    base = two[7][0].weights["encoder.text_tower.transformer.encoder.layers.0.mlp.fc1.base_layer.weight"]
    weight = encoder.get_parameter("text_tower.transformer.encoder.layers.0.mlp.fc1.weight")
    assert not torch.equal(weight, base)
    assert torch.equal(
        encoder.get_parameter("image_tower.projection.weight"),
        two[7][0].weights["encoder.image_tower.projection.weight"],
    )
