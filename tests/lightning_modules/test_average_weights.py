"""The running average of the weights: its formula, its way through checkpoints, its export."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning import Callback

from lightning_modules import BetaClip, ClipFinetune
from lightning_modules.callbacks import AverageWeights
from lightning_modules.cli.main import main
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.methods.data_check import MethodError
from tests.helpers.tiny_run import TINY, fit


class Weights(Callback):
    """The encoder's weights after every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append([weight.detach().clone() for weight in pl_module.encoder.parameters()])

    def on_train_start(self, trainer, pl_module):
        self.start = [weight.detach().clone() for weight in pl_module.encoder.parameters()]


def test_the_average_is_the_formulas_and_goes_on(tmp_path):
    """Trained in two parts, the second from the first one's checkpoint."""
    first, second = Weights(), Weights()
    fit(tmp_path, AverageWeights(0.6), first, epochs=1, method=ClipFinetune)
    trainer = fit(tmp_path, AverageWeights(0.6), second, epochs=2, method=ClipFinetune)
    average = first.start
    for step, weights in enumerate(first.seen + second.seen, 1):
        keep = min(0.6, (1 + step) / (10 + step))
        average = [keep * a + (1 - keep) * w for a, w in zip(average, weights, strict=True)]
    assert step == 6
    kept = trainer.lightning_module.averaged
    assert not any(weight.requires_grad for weight in kept.parameters())
    for found, wanted in zip(kept.parameters(), average, strict=True):
        torch.testing.assert_close(found.detach(), wanted)

    last = tmp_path / "checkpoints" / "last.ckpt"
    exported = encoder_of(read(last), "averaged")
    assert torch.equal(exported.image_tower.projection.weight, kept.image_tower.projection.weight)
    assert not torch.equal(encoder_of(read(last)).image_tower.projection.weight, kept.image_tower.projection.weight)
    assert main(["export", str(last), str(tmp_path / "model"), "--weights", "averaged"]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Its weights are the running average of the trained ones. The numbers below are of the trained ones." in card
    assert "| caption · text to image |" in card
    assert "model-index" not in card
    assert ClipFinetune.load_from_checkpoint(last).averaged is None  # loads without the callback


def test_an_average_begun_later_starts_at_the_weights(tmp_path, capsys):
    at_bound = replace(TINY, init_scale=1.0001)  # which would fall below 1 but for the clamp
    fit(tmp_path, epochs=1, encoder=at_bound)
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit):
        main(["export", str(last), str(tmp_path / "model"), "--weights", "averaged"])
    assert "holds no averaged weights" in capsys.readouterr().err
    trainer = fit(tmp_path, AverageWeights(0.0), epochs=2, encoder=at_bound)
    model = trainer.lightning_module
    assert isinstance(model, BetaClip)
    for found, wanted in zip(model.averaged.parameters(), model.encoder.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_decay_is_checked():
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1.0"):
        AverageWeights(1.0)


def test_weights_in_bfloat16_are_refused(tmp_path):
    with pytest.raises(MethodError, match=r"^trainer\.precision must be .* with AverageWeights, got bf16-true"):
        fit(tmp_path, AverageWeights(), epochs=1, method=ClipFinetune, trainer={"precision": "bf16-true"})
    mixed = fit(tmp_path, AverageWeights(), epochs=1, method=ClipFinetune, trainer={"precision": "bf16-mixed"})
    assert mixed.lightning_module.averaged.dtype == torch.float32
