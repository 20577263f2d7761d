"""The folder for results of ``lightning validate`` and ``test``, apart from the training's files."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_modules.methods.base import Method
from lightning_modules.runs.keeper import RunKeeper


class MeasuredPlace(Callback):
    """Tells the other callbacks where results go.

    Args:
        place: the folder; None on all ranks but the first.
        step: of the checkpoint that is measured.
    """

    def __init__(self, place: Path | None, step: int) -> None:
        self.place, self.step = place, step


def place_of_results(trainer: Trainer) -> Path | None:
    """The folder for results.json; outside the commands Lightning's, broadcast by rank 0, so all ranks must call it."""
    for callback in vars(trainer)["callbacks"]:
        if isinstance(callback, (RunKeeper, MeasuredPlace)):
            return callback.place
    return None if trainer.log_dir is None else Path(trainer.log_dir)


def measured_step(trainer: Trainer, method: LightningModule) -> int:
    """The step of the weights that were measured: of the checkpoint, or in training that of the last validation."""
    for callback in vars(trainer)["callbacks"]:
        if isinstance(callback, MeasuredPlace):
            return callback.step
    in_training = trainer.state.fn == TrainerFn.FITTING
    if in_training and isinstance(method, Method) and method.numbers_step is not None:
        return method.numbers_step
    return trainer.global_step
