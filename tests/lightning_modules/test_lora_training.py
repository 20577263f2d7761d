"""Runs with LoRA: the base stays bit for bit, runs go on, and every command reads their checkpoints."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Callback
from transformers import CLIPModel, CLIPProcessor

from lightning_modules import BetaClip, ClipFinetune, CropTarget, HarmoClip, OptimConfig
from lightning_modules.callbacks import AverageWeights
from lightning_modules.cli.main import main
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.parameter_counts import parameter_counts
from lightning_modules.networks.adapters import is_adapter, merged
from lightning_modules.networks.lora import LoraConfig
from lightning_modules.networks.text_encoding import encode_strings
from tests.helpers.tiny import picture
from tests.helpers.tiny_methods import method_data
from tests.helpers.tiny_run import TINY, assert_caching_changes_nothing, first_batch, fit, fit_method

LORA = LoraConfig(rank=4, alpha=8.0)


class Stopped(Exception):
    pass


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4:
            raise Stopped


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, fit(folder, AverageWeights(0.5), epochs=2, lora=LORA, pooling_heads=2)


def test_only_adapters_new_modules_and_temperatures_move(run, tmp_path):
    _, trainer = run
    start = fit(tmp_path, epochs=1, lora=LORA, pooling_heads=2, trainer={"limit_train_batches": 0})
    before, after = dict(start.lightning_module.named_parameters()), trainer.lightning_module
    for name, weight in after.named_parameters():
        if name.startswith("averaged."):
            continue
        moves = is_adapter(name) or name.startswith("pooling.") or name.endswith("log_scale")
        assert torch.equal(weight, before[name]) != moves, name
        assert weight.requires_grad == moves, name
    state = trainer.optimizers[0].state
    assert {id(p) for p in state} == {id(p) for p in after.parameters() if p.requires_grad}


def test_adapters_learn_as_added_modules(run):
    method = ClipFinetune(encoder=TINY, lora=LORA, optim=OptimConfig(lr=1e-5, added_modules_lr=1e-3, image_lr=1e-6))
    method.trainer = run[1]
    groups = {g["name"]: g["lr"] for g in method.configure_optimizers()["optimizer"].param_groups}
    assert groups.keys() == {"adapters", "temperatures"}
    assert method.configure_optimizers()["optimizer"].param_groups[0]["initial_lr"] == 1e-3
    counts = parameter_counts(method)
    assert counts["adapters"].trained == sum(
        p.numel() for n, p in method.named_parameters() if is_adapter(n)
    )  # fmt: skip
    assert counts["image tower"].trained == counts["text tower"].trained == 0


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_resumed_run_is_the_whole_run_to_the_last_bit(tmp_path, dropout):
    settings = {"epochs": 2, "lora": LoraConfig(rank=2, dropout=dropout), "pooling_heads": 2}
    whole = fit(tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        fit(tmp_path / "parts", Stop(), **settings)
    torch.manual_seed(99)  # a new process has drawn other numbers
    parts = fit(tmp_path / "parts", **settings)
    wanted = whole.lightning_module.state_dict()
    for name, weight in parts.lightning_module.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


def test_dropout_drops_in_training_alone(tmp_path):
    batch = first_batch(tmp_path, 4, 4)
    method = ClipFinetune(encoder=TINY, lora=LoraConfig(dropout=0.5))
    for name, parameter in method.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter.data)
    method.eval()
    assert torch.equal(method.features(batch).images.image, method.features(batch).images.image)
    method.train()
    assert not torch.equal(method.features(batch).images.image, method.features(batch).images.image)


def test_gradient_caching_changes_nothing(tmp_path):
    batch = first_batch(tmp_path, 6, 6)
    batch = batch._replace(images=batch.images.double())

    def make():
        torch.manual_seed(0)
        method = ClipFinetune(encoder=TINY, lora=LORA, memory=MemoryConfig(activation_checkpointing=True)).double()
        for name, parameter in method.named_parameters():
            if is_adapter(name):
                torch.nn.init.normal_(parameter.data, std=0.1)
        return method

    assert_caching_changes_nothing(make, batch)


@pytest.mark.parametrize("weights", ["trained", "averaged"])
def test_an_export_is_the_adapted_model(run, tmp_path, weights):
    folder, trainer = run
    command = ["export", str(folder / "checkpoints" / "last.ckpt"), str(tmp_path / "out"), "--weights", weights]
    assert main(command) == 0
    model = CLIPModel.from_pretrained(tmp_path / "out").eval()
    method = trainer.lightning_module.eval()
    encoder = method.encoder if weights == "trained" else method.averaged
    pixels, texts = torch.rand(2, 3, 16, 16), ["a red cube beside two cats", "a boat"]
    ids = CLIPProcessor.from_pretrained(tmp_path / "out").tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(pixel_values=pixels, **ids)
        ours = encoder.encode_image(pixels).image, encode_strings(encoder, texts, torch.device("cpu"))
    torch.testing.assert_close(theirs.image_embeds, ours[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.text_embeds, ours[1], rtol=0, atol=1e-5)


def test_every_command_reads_the_checkpoint(run, tmp_path):
    folder, trainer = run
    last = str(folder / "checkpoints" / "last.ckpt")
    loaded = BetaClip.load_from_checkpoint(last)
    assert loaded.lora == LORA
    (tmp_path / "cat.jpg").write_bytes(picture(1))
    explain = ["explain", "--model", last, "--image", str(tmp_path / "cat.jpg"), "--text", "a cat", "--device", "cpu"]
    assert main([*explain, "--out", str(tmp_path / "cat.html")]) == 0
    shards = str(folder / "shards")
    predict = ["predict", "--model", last, "--shards", shards, "--out", str(tmp_path / "embeddings"), "--device", "cpu"]
    assert main(predict) == 0
    rows = [json.loads(line) for line in (tmp_path / "embeddings" / "caption.jsonl").read_text().splitlines()]
    vectors = torch.from_numpy(np.load(tmp_path / "embeddings" / "caption.npy"))
    ours = trainer.lightning_module.eval().encode_text([row["text"] for row in rows])
    torch.testing.assert_close(vectors, ours, rtol=0, atol=1e-5)


def test_a_teacher_s_share_is_taken_of_merged_weights(tmp_path):
    """Half of the adapted student and half of the teacher, which has no trained adapters."""
    make = partial(HarmoClip, region_losses=[CropTarget(teacher="frozen", student_share=0.5)], lora=LORA)
    method = make(encoder=TINY, optim=OptimConfig(lr=1e-2, warmup_steps=0))
    fit_method(tmp_path / "logs", method, method_data(tmp_path / "data"), 1)
    method.trainer.save_checkpoint(tmp_path / "run.ckpt")
    student, teacher = (merged(m.state_dict(), LORA.scale) for m in (method.encoder, method.teacher))
    for encoder in (method.inference_encoder(), encoder_of(read(tmp_path / "run.ckpt"))):
        assert student.keys() == encoder.state_dict().keys()
        for name, weight in encoder.state_dict().items():
            torch.testing.assert_close(weight, (student[name] + teacher[name]) / 2, msg=name)
    assert not torch.equal(
        student["image_tower.blocks.0.attn.qkv.weight"], teacher["image_tower.blocks.0.attn.qkv.weight"]
    )
