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
    """Records the samples of each batch and the steps of each validation; dies before batch ``batch`` of the run, at
    the start of the validation after ``validation`` steps, or after epoch ``epoch`` before its end is saved.
    """

    def __init__(self, batch: int | None = None, validation: int | None = None, epoch: int | None = None) -> None:
        self.batch, self.validation, self.epoch = batch, validation, epoch
        self.keys, self.validated = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 == self.batch:
            raise Killed
        self.keys.append(batch.keys)

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == self.validation:
            raise Killed
        self.validated.append(trainer.global_step)

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise Killed


def saved(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_like(folder, other):
    """The same weights bit for bit, after as many steps, counted alike for the loggers."""
    mine, theirs = saved(folder), saved(other)
    assert mine["global_step"] == theirs["global_step"]
    assert all(torch.equal(mine["state_dict"][name], weight) for name, weight in theirs["state_dict"].items())
    logged = [c["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] for c in (mine, theirs)]
    assert logged[0] == logged[1] == mine["global_step"]


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


@pytest.mark.parametrize(
    ("settings", "dies", "validated"),
    [
        ({}, {"validation": 3}, [3, 6]),
        ({}, {"epoch": 0}, [3, 6]),
        ({"accumulate_grad_batches": 2}, {"validation": 2}, [2, 4]),
        ({"check_val_every_n_epoch": 2}, {"epoch": 0}, [6]),
        ({"check_val_every_n_epoch": 2}, {"validation": 6}, [6]),
        ({"limit_val_batches": 0}, {"epoch": 0}, []),
        ({"val_check_interval": 2}, {"validation": 2}, [2, 5]),  # after the second batch of each epoch
        ({"val_check_interval": 2}, {"epoch": 0}, [5]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, {"validation": 3}, [3, 6]),
    ],
    ids=str,
)
def test_a_run_that_died_before_its_validation_was_saved_makes_up_for_it(tmp_path, settings, dies, validated):
    """The newest checkpoint is that of the step before the validation; no sample is left out or comes again."""
    uninterrupted, first, second = Watch(), Watch(**dies), Watch()
    train(tmp_path / "whole", uninterrupted, **settings)
    with pytest.raises(Killed):
        train(tmp_path, first, **settings)
    ended = train(tmp_path, second, **settings)
    assert second.validated == validated
    assert first.keys + second.keys == uninterrupted.keys
    assert_like(tmp_path, tmp_path / "whole")
    assert ended.current_epoch == 2


class Stops(Callback):
    """Asks to stop after batch ``batch`` of the run, as a timer does, or after the validation at ``step``."""

    def __init__(self, batch: int | None = None, step: int | None = None) -> None:
        self.batch, self.step = batch, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop |= trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batch

    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop |= trainer.global_step == self.step


@pytest.mark.parametrize(
    ("settings", "stop", "step"),
    [
        ({}, {"batch": 1}, 1),
        ({}, {"batch": 5}, 5),
        ({"limit_val_batches": 0}, {"batch": 4}, 4),
        ({"accumulate_grad_batches": 2}, {"batch": 4}, 3),  # the window's end, after batch 5
        ({"accumulate_grad_batches": 2, "val_check_interval": 1}, {"step": 2}, 2),
        ({"val_check_interval": 1}, {"step": 1}, 1),
        ({"val_check_interval": 2}, {"batch": 1}, 1),
    ],
    ids=str,
)
def test_a_stop_inside_an_epoch_is_saved(tmp_path, settings, stop, step):
    """The same command then goes on with the next sample, and knows the best number so far."""
    uninterrupted, first, second = Watch(), Watch(), Watch()
    train(tmp_path / "whole", uninterrupted, **settings)
    train(tmp_path, first, Stops(**stop), **settings)
    stopped = saved(tmp_path)
    assert stopped["global_step"] == step
    if first.validated:
        assert stopped["grainclip"]["numbers_step"] == first.validated[-1] == step
        (best,) = [state for key, state in stopped["callbacks"].items() if key.startswith("BestCheckpoint")]
        assert best["best_model_score"] == saved(tmp_path, "best")["grainclip"]["numbers"]["caption/text_to_image/R@1"]
    train(tmp_path, second, **settings)
    assert first.keys + second.keys == uninterrupted.keys
    assert_like(tmp_path, tmp_path / "whole")


def test_a_used_up_time_limit_is_told(tmp_path, caplog):
    for told in (False, True):
        ended = train(tmp_path, max_time={"microseconds": 1})
        assert ended.global_step == 1
        assert ("trainer.max_time is used up" in caplog.text) == told
    assert train(tmp_path, max_time={"hours": 1}).global_step == 6
