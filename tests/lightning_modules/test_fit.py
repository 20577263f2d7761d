"""Training end to end through Lightning: steps, logs, checkpoints, exact resume, over-fitting real photographs."""

from __future__ import annotations

import json

import pytest
import torch
from lightning import Callback

from datamodules import Squash
from lightning_modules import BetaClip, ClipFinetune
from lightning_modules.callbacks import BestCheckpoint, DataMonitor, LastCheckpoint, ResultTable, Throughput
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.model_card import model_card
from tests.helpers.tiny_run import TINY, fit


class Losses(Callback):
    """Every step's loss; asks to stop after ``epochs`` where given."""

    def __init__(self, epochs: int | None = None) -> None:
        self.epochs, self.values = epochs, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())

    def on_train_epoch_end(self, trainer, pl_module):
        if self.epochs is not None and trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_from_an_epochs_end(tmp_path, workers):
    whole, first, second = Losses(), Losses(epochs=2), Losses()
    ended = fit(tmp_path / "whole", whole, workers=workers)
    fit(tmp_path / "parts", first, workers=workers)
    resumed = fit(tmp_path / "parts", second, workers=workers)
    assert len(whole.values) == 12
    assert len(first.values) == len(second.values) == 6
    assert first.values + second.values == pytest.approx(whole.values, rel=1e-6)
    assert resumed.global_step == ended.global_step == 12
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(ended.optimizers[0].param_groups[0]["lr"])
    for a, b in zip(resumed.model.parameters(), ended.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_checkpoints_are_five_hundred_steps_apart():
    assert LastCheckpoint().every_n_steps == 500


def test_a_run_by_steps_that_is_made_longer_leaves_out_no_epoch(tmp_path):
    for steps in (3, 9):
        ended = fit(tmp_path, epochs=-1, trainer={"max_steps": steps})
        assert (ended.global_step, ended.current_epoch) == (steps, steps // 3)


class StopsAfter(Callback):
    """Dies in the middle of an epoch, like a killed job."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise RuntimeError("killed")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_from_the_middle_of_an_epoch(tmp_path, workers):
    whole, first, second = Losses(), Losses(), Losses()
    fit(tmp_path / "whole", whole, workers=workers)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "parts", first, StopsAfter(5), workers=workers)
    fit(tmp_path / "parts", second, workers=workers)
    assert len(second.values) == 8  # the checkpoint of step 4
    assert first.values[:4] + second.values == pytest.approx(whole.values, rel=1e-6)


@pytest.mark.slow
def test_the_checkpoint_is_there_when_validation_fails(tmp_path):
    class FailingValidation(Callback):
        def on_validation_start(self, trainer, pl_module):
            raise RuntimeError("benchmark broke")

    with pytest.raises(RuntimeError, match="benchmark broke"):
        fit(tmp_path, FailingValidation())
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    losses = Losses()
    assert fit(tmp_path, losses).global_step == 12
    assert len(losses.values) == 9


def test_logs_and_table(tmp_path, capsys):
    fit(tmp_path, Throughput(), DataMonitor(), ResultTable(), epochs=2)
    shown = capsys.readouterr().out
    assert "caption" in shown
    assert "sentence" in shown
    assert (tmp_path / "results.json").is_file()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "last-0.ckpt", "best.ckpt"}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "train/loss", "train/loss_global", "train/loss_beta_cal", "logit_scale/global", "logit_scale/pooling",
        "throughput/images_per_second", "throughput/data_wait_fraction", "data/skipped", "data/tokens_per_image",
        "val/loss_beta_cal", "val/caption/text_to_image/R@1", "val/caption/image_to_text/R@10",
        "val/sentence/text_to_image/R@5",
    }  # fmt: skip


@pytest.mark.slow
def test_the_table_is_followed_by_the_best_value_and_its_step_also_of_a_run_that_went_on(tmp_path, capsys):
    for epochs in (3, 4):
        fit(tmp_path, ResultTable(), epochs=epochs)
        (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("best ")]
        file = tmp_path / "checkpoints" / "best.ckpt"
        best = torch.load(file, weights_only=True)
        value = best["grainclip"]["numbers"]["caption/text_to_image/R@1"]
        step = best["global_step"]
        assert line == f"best caption/text_to_image/R@1: {100 * value:.1f}% at step {step}, kept in {file}"


def test_numbers_are_told_with_the_step_at_which_they_were_measured(tmp_path, capsys):
    """Training ends two steps after the only validation."""
    fit(tmp_path, ResultTable(), method=ClipFinetune, epochs=-1, trainer={"max_steps": 5})
    assert json.loads((tmp_path / "results.json").read_text())["settings"] == {"method": "ClipFinetune", "step": 3}
    assert "ClipFinetune after 3 steps" in capsys.readouterr().out
    origin = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)[KEY]
    assert (origin["steps"], origin["numbers_step"]) == (5, 3)
    told = "Measured at step 3; the weights are those of step 5."
    assert told in model_card(origin, "transformers")
    for same in ({"steps": 3}, {"numbers_step": None}):
        assert "Measured at" not in model_card(origin | same, "transformers")


class Values(Callback):
    """One after each epoch."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("value", self.values[trainer.current_epoch])


@pytest.mark.slow
def test_a_worse_epoch_leaves_the_best_checkpoint_alone(tmp_path):
    best = BestCheckpoint(dirpath=str(tmp_path / "best"), monitor="value")
    fit(tmp_path, Values(0.2, 0.5, 0.4, 0.3), best)
    assert [file.name for file in (tmp_path / "best").iterdir()] == ["best.ckpt"]
    assert torch.load(tmp_path / "best" / "best.ckpt", weights_only=True)["global_step"] == 6


class ValuesBySteps(Values):
    """One after each step."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("value", self.values[trainer.global_step - 1])


def test_the_best_may_lie_inside_an_epoch(tmp_path):
    best = BestCheckpoint(dirpath=str(tmp_path / "best"), monitor="value")
    fit(tmp_path, ValuesBySteps(0.2, 0.5, 0.4), best, epochs=1, trainer={"val_check_interval": 1})
    assert torch.load(tmp_path / "best" / "best.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", [ClipFinetune, BetaClip])
def test_losses_fall(tmp_path, method):
    losses = Losses()
    fit(tmp_path, losses, epochs=25, method=method, transform=Squash())
    assert sum(losses.values[-5:]) < 0.9 * sum(losses.values[:5])


def test_encode_is_unit_and_needs_no_trainer():
    model = BetaClip(encoder=TINY).eval()
    texts = model.encode_text(["a red cube", "a " * 500, "a red cube"])
    assert texts.shape == (3, 16)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts[0], texts[2])
    images = model.encode_image(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
