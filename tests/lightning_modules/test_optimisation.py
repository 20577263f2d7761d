"""Effects of a step on the weights: clipping, temperatures at their bounds, the checkpoint after it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from torch.amp.grad_scaler import GradScaler

from lightning_modules import BetaClip, ClipFinetune, HarmoClip, OptimConfig
from lightning_modules.callbacks import AverageWeights
from lightning_modules.methods.data_check import DataCheck, MethodError
from lightning_modules.methods.optimizers import ScheduleError, adamw, warmup_cosine
from tests.helpers.tiny_run import TINY, data, fit


class Gradients(Callback):
    """Records the gradients after each step, in one vector."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.seen.append(torch.cat(grads))


FAST = OptimConfig(lr=1e-2, warmup_steps=0)


def run(folder, steps=3, callbacks=(), optim=FAST, **trainer):
    seed_everything(3)
    made = Trainer(
        max_steps=steps, accelerator="cpu", devices=1, num_sanity_val_steps=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, callbacks=list(callbacks),
        **trainer,
    )  # fmt: skip
    made.fit(ClipFinetune(encoder=TINY, optim=optim), data(folder))
    return made


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_gradients_are_clipped_by_their_norm(tmp_path, precision):
    """In every precision, and no more than that: their direction stays."""
    plain, clipped = Gradients(), Gradients()
    settings = {"precision": precision}
    if precision == "16-mixed":  # which the Trainer gives to GPUs only
        settings = {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=64.0))]}
    run(tmp_path / "plain", steps=1, callbacks=[plain], **settings)
    trainer = run(tmp_path / "clipped", callbacks=[clipped], gradient_clip_val=0.05, **settings)
    tolerance = 1e-5 if precision == "32-true" else 1e-2
    for grads in clipped.seen:
        assert grads.float().norm().item() == pytest.approx(0.05, rel=tolerance)
    whole = plain.seen[0].float()
    assert whole.norm() > 0.5
    cosine = torch.nn.functional.cosine_similarity(whole, clipped.seen[0].float(), dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-3)
    fused = [group["fused"] for group in trainer.optimizers[0].param_groups]
    assert fused == [precision != "16-mixed"] * len(fused)  # where a loss scale must be undone before


def test_small_gradients_stay_and_values_are_clipped_too(tmp_path):
    plain, wide, by_value = Gradients(), Gradients(), Gradients()
    run(tmp_path / "plain", callbacks=[plain])
    run(tmp_path / "wide", callbacks=[wide], gradient_clip_val=1e4)
    run(tmp_path / "value", callbacks=[by_value], gradient_clip_val=1e-3, gradient_clip_algorithm="value")
    assert all(torch.equal(a, b) for a, b in zip(plain.seen, wide.seen, strict=True))
    assert by_value.seen[0].abs().max() == 1e-3
    torch.testing.assert_close(by_value.seen[0], plain.seen[0].clamp(-1e-3, 1e-3))


def test_true_half_precision_of_fp16_is_refused(tmp_path):
    with pytest.raises(MethodError, match=r"trainer\.precision must be .* to train, got 16-true: .* vanish in fp16"):
        run(tmp_path, precision="16-true")


class Looks(Callback):
    """Temperatures as a callback finds them at the end of a batch, when others save."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(pl_module.encoder.temperature.log_scale.item())


@pytest.mark.parametrize(("scale", "bound"), [(1.02, 0.0), (99.99, 4.605170)])
def test_no_one_sees_a_temperature_beyond_its_bound(tmp_path, monkeypatch, scale, bound):
    looks, sign = Looks(), -1 if bound else 1  # a loss that pulls towards the bound
    monkeypatch.setattr(ClipFinetune, "losses", lambda self, *_: {"pull": sign * self.encoder.logit_scale.sum()})
    trainer = fit(
        tmp_path, looks, AverageWeights(0.5), epochs=1, method=ClipFinetune, encoder=replace(TINY, init_scale=scale)
    )
    assert looks.seen[-1] == pytest.approx(bound, abs=1e-6)
    assert all(-1e-9 <= seen <= 4.605171 for seen in looks.seen)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["encoder.temperature.log_scale"].item() == looks.seen[-1]
    ours = trainer.lightning_module
    assert torch.equal(saved["averaged.temperature.log_scale"], ours.averaged.temperature.log_scale)


class Stopped(Exception):
    pass


class Stop(Callback):
    """Ends the run as a crash would, before its third step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            raise Stopped


@pytest.mark.slow
@pytest.mark.parametrize("method", [BetaClip, partial(HarmoClip, region_losses=[])])
def test_a_run_resumed_at_the_bound_is_the_whole_run_to_the_last_bit(tmp_path, method):
    """Stopped inside an epoch, from a checkpoint that callbacks wrote between two steps."""
    settings = {"epochs": 2, "method": method, "encoder": replace(TINY, init_scale=1.001)}
    whole = fit(tmp_path / "whole", AverageWeights(0.5), **settings)
    with pytest.raises(Stopped):
        fit(tmp_path / "parts", AverageWeights(0.5), Stop(), **settings)
    saved = torch.load(tmp_path / "parts" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert saved["state_dict"]["encoder.temperature.log_scale"].item() == 0.0
    parts = fit(tmp_path / "parts", AverageWeights(0.5), **settings)
    assert parts.global_step == whole.global_step == 6
    wanted = whole.lightning_module.state_dict()
    for name, weight in parts.lightning_module.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


def test_the_last_window_of_accumulated_gradients_counts_in_full(tmp_path):
    """Three batches in windows of two: the last step's gradient is that of its one batch, not half of it."""
    plain, windows = Gradients(), Gradients()
    run(tmp_path / "plain", callbacks=[plain], optim=OptimConfig(lr=0.0))
    run(tmp_path / "windows", steps=2, callbacks=[windows], optim=OptimConfig(lr=0.0), accumulate_grad_batches=2)
    first, second, third = plain.seen
    torch.testing.assert_close(windows.seen[1], (first + second) / 2)
    torch.testing.assert_close(windows.seen[2], third)


def test_groups_rates_and_decay_by_hand():
    """Of every parameter: where it belongs, how fast it learns, whether it shrinks."""
    config = OptimConfig(
        lr=1e-3, added_modules_lr=2e-3, temperature_lr=3e-3, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-7
    )
    method = BetaClip("bce", normalize_by="row", bias=-5.0, encoder=TINY)
    method.encoder.text_tower.projection.requires_grad_(False)
    optimizer = adamw(method, method.new_modules(), config)
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            group = where.pop(id(parameter))
            found[name] = (group["name"], group["lr"], group["weight_decay"])
    assert not where
    assert {
        "encoder.image_tower.projection.weight": ("towers", 1e-3, 0.1),
        "encoder.image_tower.cls_token": ("towers", 1e-3, 0.1),  # no vector by its shape, as in the published code
        "encoder.image_tower.norm_pre.bias": ("towers_no_decay", 1e-3, 0.0),
        "encoder.text_tower.transformer.embeddings.token_embedding.weight": ("towers", 1e-3, 0.1),
        "encoder.temperature.log_scale": ("temperatures", 3e-3, 0.0),
        "pooling.attn.in_proj_weight": ("new", 2e-3, 0.1),
        "pooling.norm.weight": ("new_no_decay", 2e-3, 0.0),
        "pooling.temperature.log_scale": ("temperatures", 3e-3, 0.0),
        "beta_cal.bias": ("temperatures", 3e-3, 0.0),
    }.items() <= found.items()
    assert "encoder.text_tower.projection.weight" not in found
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["fused"]) == ((0.8, 0.9), 1e-7, True)
    plain = adamw(method, method.new_modules(), OptimConfig(lr=5e-4))
    assert {group["lr"] for group in plain.param_groups} == {5e-4}


TEN = {  # warm-up of 4 steps to 1, then a cosine over 16 to 0.1
    0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 8: 0.8681981, 10: 0.7222076, 12: 0.55, 16: 0.2318019, 19: 0.1086466, 20: 0.1
}  # fmt: skip


def test_the_schedule_at_ten_points():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": weights[:1], "lr": 2.0}, {"params": weights[1:], "lr": 0.5}])
    schedule = warmup_cosine(optimizer, OptimConfig(warmup_steps=4, final_lr_ratio=0.1), 20)
    for step in range(23):
        if step in TEN:
            assert schedule.get_last_lr() == pytest.approx([2 * TEN[step], 0.5 * TEN[step]], abs=1e-6)
        if step > 20:
            assert schedule.get_last_lr() == pytest.approx([0.2, 0.05])
        optimizer.step()
        schedule.step()
    with pytest.raises(ScheduleError, match="must say where training ends"):
        warmup_cosine(optimizer, OptimConfig(), float("inf"))


class Rates(Callback):
    """Each group's rate in each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})


def test_a_run_follows_the_schedule_and_decays_matrices_alone(tmp_path, monkeypatch):
    """Without a gradient a matrix loses rate times decay of itself at every step."""
    monkeypatch.setattr(ClipFinetune, "losses", lambda self, *_: {"none": 0 * sum(p.sum() for p in self.parameters())})
    monkeypatch.setattr(DataCheck, "on_train_batch_end", lambda *_: None)
    rates = Rates()
    optim = OptimConfig(lr=0.1, temperature_lr=0.2, weight_decay=0.5, warmup_steps=1, final_lr_ratio=0.5)
    trainer = run(tmp_path, callbacks=[rates], optim=optim)
    seed_everything(3)
    before = ClipFinetune(encoder=TINY).state_dict()
    by_hand = [0.5, 1.0, 0.75]  # of the peak: warm-up, peak, the middle of a cosine of two steps to a half
    assert [one["towers"] for one in rates.seen] == pytest.approx([0.1 * share for share in by_hand])
    assert [one["temperatures"] for one in rates.seen] == pytest.approx([0.2 * share for share in by_hand])
    left = (1 - 0.05 * 0.5) * (1 - 0.1 * 0.5) * (1 - 0.075 * 0.5)
    after = trainer.lightning_module.state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight * (left if weight.ndim >= 2 else 1), msg=name)
