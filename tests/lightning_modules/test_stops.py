"""Runs that stop at awkward moments: within a window of accumulated gradients, in an epoch's last step, by a limit."""

from __future__ import annotations

import pytest
import torch
from lightning import Callback

from lightning_modules import ClipFinetune
from tests.helpers.tiny_run import fit

pytestmark = pytest.mark.filterwarnings("ignore")


class Killed(RuntimeError):
    """Stands for the end of a process that was killed."""


class Watch(Callback):
    """Records the samples of each batch and the steps of each validation; dies before batch ``batch`` of the run, or
    at the start of the validation after ``validation`` steps.
    """

    def __init__(self, batch: int | None = None, validation: int | None = None) -> None:
        self.batch, self.validation = batch, validation
        self.keys, self.validated = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 == self.batch:
            raise Killed
        self.keys.append(batch.keys)

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == self.validation:
            raise Killed
        self.validated.append(trainer.global_step)


def saved(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def train(folder, *callbacks, epochs=2, **trainer):
    """Three batches an epoch."""
    return fit(folder, *callbacks, epochs=epochs, method=ClipFinetune, trainer=trainer)


def test_nothing_is_saved_while_gradients_accumulate(tmp_path):
    """Neither before nor after a resume: steps end after batches 2 and 3 of an epoch, saves are two steps apart."""
    for stop in (4, 5, 5):  # the first batch of the second epoch has no step yet
        with pytest.raises(Killed):
            train(tmp_path, Watch(batch=stop), accumulate_grad_batches=2)
        checkpoint = saved(tmp_path)
        assert checkpoint["global_step"] == 2
        assert checkpoint["GranularityData"]["samples"] == 24
