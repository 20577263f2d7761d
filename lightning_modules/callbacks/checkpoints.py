"""Checkpoints: ``last.ckpt``, saved before validation can fail, and ``best.ckpt`` by a validation number.

Lightning's own ``save_last`` waits for validation at the end of an epoch; a benchmark that fails there would cost the
epoch. Both are written so that a kill at any moment leaves a whole file (``checkpoints.atomic_save``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, CheckpointError, is_whole, the_one_before
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.distributed.wrapping import local_shard
from lightning_modules.runs.keeper import RunKeeper

logger = logging.getLogger("grainclip")


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: every ``every_n_steps`` optimiser steps, after the last step of an epoch, at its end, and
    where ``trainer.should_stop`` ends training inside it; and the one before it, ``last-0.ckpt``.

    Such a stop (``trainer.max_time``, ``EarlyStopping``) waits until no gradients are accumulating.

    Args:
        dirpath: folder; None: ``checkpoints`` in the logger's folder.
        every_n_steps: optimiser steps between two saves.
    """

    def __init__(self, dirpath: str | None = None, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"last_checkpoint.every_n_steps must be at least 1, got {every_n_steps}")
        super().__init__(
            dirpath=dirpath,
            filename=self.CHECKPOINT_NAME_LAST,
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self._stops, self._validated = False, False  # when the gradients are complete; since the last save

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # Lightning's default, not something asked for
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def save(self, trainer: Trainer) -> None:
        """Save now, at the end of a batch, where there is anything new since the last time. Collective: every rank must
        call it.
        """
        if not self._should_skip_saving_checkpoint(trainer):
            _count_epoch_as_begun(trainer)
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        _check_weights(trainer)
        super()._save_checkpoint(trainer, filepath)
        self._validated = False
        for callback in vars(trainer)["callbacks"]:
            if isinstance(callback, RunKeeper):
                callback.saved(trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stops = False
        timers = [callback for callback in vars(trainer)["callbacks"] if isinstance(callback, Timer)]
        if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
            message = (
                "trainer.max_time is used up by earlier parts of this run: nothing is trained; a longer one goes on"
            )
            logger.log(logging.WARNING if trainer.is_global_zero else logging.DEBUG, message)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # 0 in a new process, also in one that resumes

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self._put_stop_off(trainer)
        step, stops = trainer.global_step, trainer.should_stop and trainer.fit_loop._can_stop_early
        if _epoch_is_done(trainer) or step % self.every_n_steps == 0 or step == trainer.max_steps or stops:
            self.save(trainer)  # while gradients accumulate there is nothing new: the step is the one of the last save

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            _check_weights(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = True
            self._put_stop_off(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _epoch_is_done(trainer):
            self._last_global_step_saved = 0  # save once more: now the epoch counts as done and its validation is in
            super().on_train_epoch_end(trainer, pl_module)
        elif self._validated:  # training ended inside the epoch, after a validation: it is in now
            self._last_global_step_saved = 0
            with _as_inside_epoch(trainer):
                self.save(trainer)

    def _put_stop_off(self, trainer: Trainer) -> None:
        """Let a stop wait until the gradients that accumulate have made a step: they are in no checkpoint."""
        accumulates = trainer.fit_loop.epoch_loop._should_accumulate()
        self._stops = self._stops or trainer.should_stop
        trainer.should_stop = self._stops and not accumulates

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            loop = checkpoint["loops"]["fit_loop"]
            _begin_next_epoch(loop)
            measured = checkpoint.get(KEY, {}).get("numbers_step") == checkpoint["global_step"]
            if not measured and _validation_is_due(trainer, loop):
                _begin_validation(loop)

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """``last.ckpt`` where it is whole, else the one before it."""
        checkpoints = super()._find_last_checkpoints(trainer)
        if not checkpoints or "://" in next(iter(checkpoints)):
            return checkpoints
        last = Path(next(iter(checkpoints))).with_name(f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
        existing = [file for file in (last, the_one_before(last)) if file.exists()]
        for file in existing:
            if is_whole(file):
                return {str(file)}
            if trainer.is_global_zero:
                logger.warning("%s is cut short or damaged; the one before it is tried", file)
        if not existing:
            return checkpoints
        raise CheckpointError(
            f"{last} is cut short or damaged, and so is the one before it, if any; "
            "without ckpt_path training starts anew, in another folder"
        )


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the weights with the highest ``monitor`` so far; nothing where it is not measured.

    Args:
        dirpath: folder; None: ``checkpoints`` in the logger's folder.
        monitor: name of a validation number, higher is better.
    """

    def __init__(self, dirpath: str | None = None, monitor: str = "val/caption/text_to_image/R@1") -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode="max",
            save_top_k=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self._loads_own = False  # a checkpoint from the folder of its own

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        folder = os.path.dirname(os.path.realpath(str(trainer.ckpt_path)))
        self._loads_own = folder == os.path.realpath(str(self.dirpath))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best so far where the checkpoint is of this run, wherever its folder was then, and
        ``best.ckpt`` is there.
        """
        path = self.format_checkpoint_name({})
        is_own = self._loads_own or state_dict["dirpath"] == self.dirpath
        if is_own and state_dict["best_model_path"] and self._fs.exists(path):
            here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict(state_dict | here | {"best_k_models": {path: state_dict["best_model_score"]}})

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not trainer.sanity_checking:
            logger.warning("best.ckpt is not kept: %r was not measured in validation", self.monitor)

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """None: it keeps the best."""
        return set()


def _check_weights(trainer: Trainer) -> None:
    """Collective: every rank must call it.

    Raises:
        CheckpointError: where a weight is NaN or infinite on any rank, before anything is written.
    """
    weights = (local_shard(weight.detach()) for weight in trainer.lightning_module.parameters())
    finite = torch.stack([weight.isfinite().all() for weight in weights]).all()
    if trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
        return
    saver = next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
    step = 0 if saver is None else saver._last_global_step_saved
    file = None if saver is None else saver.format_checkpoint_name({})
    kept = f"{file} of step {step} is kept" if file is not None and os.path.exists(file) else "nothing was saved"
    raise CheckpointError(
        f"weights are NaN or infinite at step {trainer.global_step}; {kept}; a lower model.optim.lr or "
        "trainer.gradient_clip_val may keep them finite"
    )


def _epoch_is_done(trainer: Trainer) -> bool:
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


@contextmanager
def _as_inside_epoch(trainer: Trainer) -> Iterator[None]:
    """Lightning's counts as they were at the end of the last batch, though training has ended inside the epoch.

    At its end Lightning takes an epoch for done, wherever training stopped.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    epochs, batches = trainer.fit_loop.epoch_progress, epoch_loop.batch_progress
    counts = [
        (vars(count), name)
        for progress, name in ((epochs, "processed"), (batches, "completed"))
        for count in (progress.total, progress.current)
    ]
    for count, name in counts:
        count[name] -= 1
    epoch_loop._batches_that_stepped -= 1
    yield
    epoch_loop._batches_that_stepped += 1
    for count, name in counts:
        count[name] += 1


def _begin_next_epoch(loop: dict[str, Any]) -> None:
    """Make a checkpoint of an epoch's end go on with no batch of the next one done.

    Where ``max_steps`` is set, Lightning would take the batches of the epoch that is done for those of the next, and
    leave that one out.
    """
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    if epochs["ready"] == epochs["started"] == epochs["processed"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False


def _validation_is_due(trainer: Trainer, loop: dict[str, Any]) -> bool:
    """True where Lightning validates after the batch whose end the checkpoint marks, by the trainer's settings."""
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    total, every, interval = batches["total"], trainer.check_val_every_n_epoch, trainer.val_check_interval
    inside = epochs["ready"] == epochs["started"] == epochs["processed"] + 1
    in_hook = total["ready"] == total["processed"] == total["completed"] + 1
    if not (inside and in_hook and trainer.enable_validation):
        return False
    if every is not None and (epochs["processed"] + 1) % every:
        return False
    done = batches["current" if every is not None else "total"]["ready"]
    if isinstance(interval, float):  # a share of the epoch's batches, whose number its last one tells
        return batches["is_last_batch"] and done % max(1, int(batches["current"]["ready"] * interval)) == 0
    return isinstance(interval, int) and done % interval == 0


def _begin_validation(loop: dict[str, Any]) -> None:
    """Make a checkpoint from a batch's end go on with the validation after that batch.

    Lightning would take the validation for done, and at an epoch's last batch the epoch as well.
    """
    batches, validation = loop["epoch_loop.batch_progress"], loop["epoch_loop.val_loop.batch_progress"]
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"]
    for count in (validation["total"], validation["current"]):  # as amid the first batch that is not done
        done = count["completed"]
        count.update(ready=done + 1, started=done + 1, processed=done)


def _count_epoch_as_begun(trainer: Trainer) -> None:
    """Set Lightning's count of epochs to its values inside an epoch.

    A run resumed from the save at an epoch's last batch does not count the next epoch as begun; resumed again inside
    that epoch, Lightning would forget the batches done, and train it too long.
    """
    progress = trainer.fit_loop.epoch_progress
    for count in (progress.total, progress.current):
        done = vars(count)["processed"]
        vars(count).update(ready=done + 1, started=done + 1, completed=done)
