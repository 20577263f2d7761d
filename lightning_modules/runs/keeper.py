"""The callback that keeps a run's folder and record: all ranks enter it together, or none."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from typing_extensions import override

from datamodules import GranularityData
from datamodules.atomic_write import try_folder, write_text
from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.checkpoints.setting_changes import Change, Flat
from lightning_modules.runs.checkpoint import RUN
from lightning_modules.runs.folder import CONFIG, RunFolder, unwritable
from lightning_modules.runs.lock import NAME as LOCK
from lightning_modules.runs.lock import place
from lightning_modules.runs.ranks import started_by_another_rank
from lightning_modules.runs.start import Decision, Resume, RunRefused, check_shards

logger = logging.getLogger("grainclip")
T = TypeVar("T")


class RunEnds(SystemExit):
    """Ends every rank; the first has reported why."""


class RunKeeper(Callback):
    """Keeps the record of a run that ``lightning fit`` starts.

    Loggers are handed to the trainer when the run is entered: before that nothing is written.

    Args:
        folder: the run's.
        config: the whole config as YAML.
        settings: those that belong to the run.
        resume: what the user accepts.
        decision: the first rank's; other ranks have chosen ``decision.checkpoint`` alone.
        loggers: the trainer's.
    """

    def __init__(
        self, folder: RunFolder, config: str, settings: Flat, resume: Resume, decision: Decision, loggers: list[Logger]
    ) -> None:
        self.folder, self.config, self.settings, self.resume = folder, config, settings, resume
        self.decision, self.loggers = decision, loggers
        self.place = folder.path  # of results.json
        self._shards: str | None = None
        self._recorded = False  # whether config.yaml is that of the checkpoint beside it

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Collective. Raises ``RunEnds`` on every rank where the first refuses, or has nothing left to train."""
        own_decision = self.decision
        data = getattr(trainer, "datamodule", None)
        self._shards = data.trained_on() if isinstance(data, GranularityData) else None
        if trainer.is_global_zero:
            self.decision = self._agree()
        self.decision = _from_first(trainer, self.decision)
        if self.decision.finished or self.decision.refusal:
            raise RunEnds(2 if self.decision.refusal and not started_by_another_rank(trainer) else 0)
        agree = trainer.strategy.reduce_boolean_decision(own_decision.checkpoint == self.decision.checkpoint, all=True)
        if not agree:
            raise CheckpointError(
                f"ranks find different checkpoints in {self.folder.path}: every node must see the folder, and no other "
                "run write into it; start again"
            )
        error = _from_first(trainer, self._enter() if trainer.is_global_zero else None)
        if error is not None:
            raise CheckpointError(error)
        trainer.loggers = self.loggers
        own_error = self._start_loggers()
        error = _from_first(trainer, own_error) or own_error
        if error is not None:
            raise CheckpointError(error)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RUN] = {
            "id": self.decision.run,
            "name": self.folder.name,
            "config": self.config,
            "settings": self.settings,
            "shards": self._shards,
            "history": self.history(trainer.global_step),
        }

    def history(self, step: int) -> list[dict[str, Any]]:
        """The parts of the training until ``step``: first and last step, and the settings that changed at its start."""
        before = self.decision.history
        changed = {change.name: [change.old, change.new] for change in self.decision.changed}
        if not before:
            return [{"from": self.decision.step, "to": step, "changed": changed}]
        if changed:
            return [*before, {"from": self.decision.step, "to": step, "changed": changed}]
        return [*before[:-1], {**before[-1], "to": step}]

    def saved(self, trainer: Trainer) -> None:
        """Write the checkpoint's config to config.yaml, once the checkpoint is in place."""
        if trainer.is_global_zero and not self._recorded:
            self._write_config(self.config, self.history(trainer.global_step))
            self._recorded = True

    def _agree(self) -> Decision:
        """The first rank's decision after the data module's shards are compared."""
        if self.decision.refusal or self.decision.finished or self.decision.checkpoint is None:
            return self.decision
        try:
            return check_shards(self.decision, self.resume.accept, self._shards)
        except RunRefused as error:
            return Decision(refusal=str(error))

    def _enter(self) -> str | None:
        """Prepare the run's folder, on the first rank. Returns an error message, or None."""
        folder, decision = self.folder, self.decision
        try:
            if decision.aside is not None:
                _move_aside(folder.path, decision.aside)
                logger.info("%s: the run before is now %s", folder.path, decision.aside)
            try_folder(folder.checkpoints)
            folder.remove_drafts()
            if folder.record().get("id") != decision.run:
                folder.write_record({
                    "id": decision.run, "name": folder.name, "origin": decision.origin, "settings": self.settings,
                    "job": os.environ.get("SLURM_JOB_ID", ""),
                })  # fmt: skip
            if decision.config is None:
                self._write_config(self.config, self.history(decision.step))
            else:  # a run that was killed right after a save may have left the config of the save before
                self._write_config(decision.config, decision.history)
        except OSError as error:
            return unwritable(folder.path, error)
        if decision.checkpoint is not None:
            logger.info("%s: goes on at step %d, from %s", folder.path, decision.step, decision.checkpoint)
        return None

    def _start_loggers(self) -> str | None:
        """Start them before training, on every rank, as Lightning does. Returns an error message, or None."""
        for run_logger in self.loggers:
            try:
                _ = getattr(run_logger, "experiment", None)
            except Exception as error:
                return f"trainer.logger: {type(run_logger).__name__} does not start: {error or type(error).__name__}"
        return None

    def _write_config(self, config: str, history: list[dict[str, Any]]) -> None:
        """Write config.yaml, with the settings that changed during training in its head."""
        head = [f"# Run {self.decision.run}. `lightning fit --config` with this file goes on with it."]
        for part in history[1:]:
            changed = ", ".join(str(Change(name, *values)) for name, values in part["changed"].items())
            head.append(f"# Changed at step {part['from']}: {changed}")
        text, file = "\n".join([*head, config]), self.folder.path / CONFIG
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)


def _move_aside(folder: Path, aside: Path) -> None:
    """Rename a run's folder and begin a new one; the lock stays with the name."""
    os.rename(folder, aside)
    folder.mkdir()
    if not place(aside / LOCK, folder / LOCK):
        raise FileExistsError(errno.EEXIST, "another run has just taken it", str(folder))
    os.unlink(aside / LOCK)


def _from_first(trainer: Trainer, value: T) -> T:
    return trainer.strategy.broadcast(value)
