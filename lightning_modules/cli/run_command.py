"""A run's folder, lock and record around the trainer's commands: ``lightning fit``, ``validate`` and ``test``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from rich.console import Console

from datamodules.atomic_write import write_text
from eval import table
from lightning_modules.callbacks.rank_consistency import RankConsistency
from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.checkpoints.setting_changes import accepted, changes, recorded
from lightning_modules.errors import fail
from lightning_modules.methods.base import Method
from lightning_modules.methods.optimizers import ScheduleError
from lightning_modules.networks.contract import plain_config
from lightning_modules.runs.checkpoint import Facts, misfit, read_facts
from lightning_modules.runs.folder import CONFIG, RESULTS, RunFolder, unwritable
from lightning_modules.runs.keeper import RunEnds, RunKeeper
from lightning_modules.runs.lock import RunLock, RunTaken
from lightning_modules.runs.loggers import loggers
from lightning_modules.runs.measured import MeasuredPlace
from lightning_modules.runs.ranks import rank, waits_for_nobody
from lightning_modules.runs.start import Decision, Limits, Resume, RunPlan, RunRefused, check_readable, decide, refusal

logger = logging.getLogger("grainclip")


class RunCommand:
    """One of the trainer's commands for one run.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        settings: the command's parsed settings; logs and checkpoints are sent into the run's folder.
        text: the same as YAML.

    Raises:
        ValueError: where the name is no folder's.
    """

    def __init__(self, command: str, settings: Namespace, text: str) -> None:
        name = settings.name or _name_of(settings)
        self.command, self.folder = command, RunFolder(settings.runs, name)
        config = yaml.safe_load(text) | {"name": name, "resume": {"accept": False, "anew": False}}
        self.config, self.compared = yaml.safe_dump(config, sort_keys=False, allow_unicode=True), recorded(config)
        self.checkpoint = settings.ckpt_path
        self._lock: RunLock | None = None
        self._decision = Decision()
        trainer = settings.trainer
        self._loggers, trainer.logger = trainer.logger, False  # made when the run's id is known
        trainer.default_root_dir = str(self.folder.path)
        for key in ("last_checkpoint", "best_checkpoint"):
            if settings[key].dirpath is not None:
                raise ValueError(
                    f"{key}.dirpath: checkpoints lie in the run's folder, {self.folder.path}; --runs moves it"
                )
            settings[key].dirpath = str(self.folder.checkpoints)

    def before_fit(self, trainer: Trainer, method: LightningModule, resume: Resume, data: Any) -> None:
        """Decide whether and how the run goes on. The first rank alone takes the lock.

        Raises:
            SystemExit: where it must not, and no other rank waits for this one; with one line.
        """
        limits = _limits(trainer)
        plan = RunPlan(
            folder=self.folder,
            checkpoint=self.checkpoint,
            resume=resume,
            settings=self.compared,
            limits=limits,
            validates=trainer.limit_val_batches != 0 and getattr(data, "validates", True),
            method=type(method).__name__,
            shapes=_shapes(method),
            sizes=_sizes(method),
            global_batch=_global_batch(data, trainer.world_size),
        )
        is_first, alone = rank(trainer) == 0, waits_for_nobody(trainer)
        try:
            if is_first:
                self._take_lock()
            check_readable(self.checkpoint)
            self._decision = decide(plan)
        except (RunRefused, RunTaken, CheckpointError) as error:
            self._decision = Decision(refusal=str(error))
        except OSError as error:
            self._decision = Decision(refusal=unwritable(self.folder.path, error))
        if is_first and (self._decision.refusal or self._decision.finished):
            self.close()
            # Other ranks that run already wait for the decision: RunKeeper sends it.
            with nullcontext() if alone else suppress(SystemExit):
                self._end()
        try:
            run_loggers = loggers(self._loggers, self.folder.path, self.folder.name, self._decision.run)
        except ImportError as error:
            fail(f"trainer.logger: {error}")
        keeper = RunKeeper(self.folder, self.config, self.compared, resume, self._decision, run_loggers)
        callbacks = vars(trainer)["callbacks"]
        checks = [c for c in callbacks if isinstance(c, RankConsistency)]  # nothing is written before ranks agree
        callbacks[:] = [*checks, keeper, *(c for c in callbacks if c not in checks)]

    def fit(self, trainer: Trainer, arguments: Mapping[str, Any]) -> None:
        """Train."""
        checkpoint = self._decision.checkpoint
        try:
            trainer.fit(**{**arguments, "ckpt_path": None if checkpoint is None else str(checkpoint)})
        except RunEnds as end:
            keeper = next(c for c in vars(trainer)["callbacks"] if isinstance(c, RunKeeper))
            if rank(trainer) == 0 and keeper.decision.refusal and not self._decision.refusal:
                fail(keeper.decision.refusal)
            raise SystemExit(end.code) from end

    def measure(self, trainer: Trainer, method: LightningModule, resume: Resume, arguments: Mapping[str, Any]) -> None:
        """Validate or test, into a folder of its own within the run's.

        Raises:
            SystemExit: where there is no checkpoint, or it is of another model; with one line.
        """
        place = None
        try:
            facts = self._to_measure(method, resume)
            if rank(trainer) == 0:
                place = self.folder.place_of(self.command)
                write_text(place / CONFIG, self.config)
        except (RunRefused, CheckpointError) as error:
            fail(str(error))
        except OSError as error:
            fail(unwritable(self.folder.path, error))
        vars(trainer)["callbacks"].insert(0, MeasuredPlace(place, 0 if facts is None else facts.step))
        getattr(trainer, self.command)(**{**arguments, "ckpt_path": None if facts is None else str(facts.path)})
        if place is not None and (place / RESULTS).is_file():
            logger.info("written: %s", place / RESULTS)

    def close(self) -> None:
        """Release the lock, and remove the folder if it is empty."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            self.folder.leave_if_empty()

    def _take_lock(self) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.folder.path, self.folder.record().get("id", ""))
        if message := self._lock.take():
            logger.warning(message)

    def _to_measure(self, method: LightningModule, resume: Resume) -> Facts | None:
        check_readable(self.checkpoint)
        if self.checkpoint is None:
            return None
        checkpoint = self.folder.last_checkpoint()[0] if self.checkpoint == "last" else Path(self.checkpoint)
        if checkpoint is None:
            raise CheckpointError(
                f"{self.folder.path} holds no checkpoint to {self.command}: --ckpt_path FILE or --name RUN names one"
            )
        facts = read_facts(checkpoint)
        changed = [] if facts.settings is None else changes(facts.settings, self.compared)
        changed = [c for c in changed if c.name.partition(".")[0] == "model" and "optim" not in c.name.split(".")]
        refused = [c for c in changed if not accepted(c, resume.accept)]
        if refused:
            raise RunRefused(refusal(refused, checkpoint, facts.step))
        if message := misfit(facts, type(method).__name__, _shapes(method), _sizes(method)):
            raise RunRefused(f"{message}; --ckpt_path takes another checkpoint, --config the run's own config.yaml")
        return facts

    def _end(self) -> None:
        """End with ``SystemExit``: with the error of a refused run, or the table of a finished one."""
        if self._decision.refusal:
            fail(self._decision.refusal)
        try:
            numbers = json.loads((self.folder.path / RESULTS).read_text(encoding="utf-8"))["numbers"]
        except (OSError, ValueError, KeyError):
            numbers = {}
        if numbers:
            Console().print(table(numbers, title=f"{self.folder.path}, as it was measured last"))
        logger.info(self._decision.finished)
        raise SystemExit(0)


def _name_of(settings: Namespace) -> str:
    """Default name of a run: the last config file's, else the method's."""
    files = settings.get("config") or []
    return Path(str(files[-1])).stem if files else str(settings.model.class_path).rpartition(".")[2].lower()


def _limits(trainer: Trainer) -> Limits:
    """Raises ``ScheduleError`` where training has no end, ``SystemExit`` where it has no step."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    for name, value in {"max_epochs": epochs, "max_steps": steps}.items():
        if value == 0:
            fail(f"trainer.{name} must be above 0 to train, got 0")
    if epochs == -1 and steps == -1:
        raise ScheduleError
    if epochs is None:
        epochs = 1000 if steps == -1 else -1  # as Lightning has it
    return Limits(epochs, steps)


def _shapes(method: LightningModule) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in method.state_dict().items()}


def _sizes(method: LightningModule) -> dict[str, Any]:
    return plain_config(method.encoder.config) if isinstance(method, Method) else {}


def _global_batch(data: Any, ranks: int) -> int | None:
    batch = getattr(data, "global_batch", None)
    return None if batch is None else batch(ranks)
