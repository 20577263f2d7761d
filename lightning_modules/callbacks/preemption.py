"""Stops a run by Ctrl-C, Slurm or ``kill``: it saves after its step and ends, and the same command goes on with the
next sample.

Slurm warns by a signal: some time before the limit of the job (``#SBATCH --signal=USR1@180``), when another job takes
its place, or when somebody cancels it (both SIGTERM). A signal handler may interrupt anything, a collective included;
so this one only records the signal. After every step the ranks agree whether any of them received one (an all-reduce of
one number on the CPU, overlapped with the step), and all stop at the same step, between two batches, when no gradients
are accumulating. Lightning's handlers are switched off: they save, and talk to the other ranks, inside the handler.

A signal during validation takes effect at the next training step; so the warning must come earlier before the limit
than a validation takes. Ctrl-C once more ends the process at once, whatever it does; the last checkpoint stays whole.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from lightning_modules.callbacks.checkpoints import LastCheckpoint
from lightning_modules.runs.ranks import started_by_another_rank

logger = logging.getLogger("grainclip")
SOON = "the run saves after its step and stops; Ctrl-C once more ends it at once"


class Preempted(SystemExit):
    """The run has been saved and stops: with status 0 where it is queued again, else 128 + the signal's number."""


class Preemption(Checkpoint):
    """Saves and stops at the next step after a signal. Like all that save it runs after the other callbacks, whose
    counts of the batch are then in the checkpoint.

    Args:
        requeue: signals after which a Slurm job is queued again, too.
        stop: signals after which it only stops: SIGINT (Ctrl-C) and SIGTERM. Slurm itself queues again what it sent
            away for another job, and what was cancelled should stay so.

    Raises:
        ValueError: where a name is no signal's, or stands in both lists.
    """

    def __init__(self, requeue: tuple[str, ...] = ("SIGUSR1",), stop: tuple[str, ...] = ("SIGTERM", "SIGINT")) -> None:
        for name in (*requeue, *stop):
            if name not in signal.Signals.__members__:
                raise ValueError(f"preemption.requeue and .stop must be names like SIGUSR1, got {name!r}")
        if both := set(requeue) & set(stop):
            raise ValueError(f"a signal must stand in preemption.requeue or in .stop, got {sorted(both)} in both")
        self.requeue = {signal.Signals[name] for name in requeue}
        self.signals = self.requeue | {signal.Signals[name] for name in stop}
        self.signal_number = 0  # 0: none; a requeueing signal goes before others
        self._before: dict[signal.Signals, Any] = {}
        self._active = False
        self._group: Any = None  # a process group, where there are several ranks
        self._reduction: tuple[torch.Tensor, dist.Work | None] = torch.tensor(0), None
        self._agreed = self._step = 0
        self._reports = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False
        self._saver(trainer)
        self.signal_number, self._agreed, self._active, self._reports = 0, 0, True, trainer.is_global_zero
        self._before = {number: signal.getsignal(number) for number in self.signals}
        self._install_handlers()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_handlers()  # Lightning has put its own handler for SIGTERM in place

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step
        code = torch.tensor(max(self._code(), self._agreed))
        work = None if self._group is None else dist.all_reduce(code, dist.ReduceOp.MAX, self._group, async_op=True)
        self._reduction = code, work

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        code, work = self._reduction
        if work is not None:
            work.wait()
        self._agreed = int(code.item())
        if self._agreed and trainer.global_step > self._step:  # else gradients are accumulating: not yet
            self._stop(trainer, self._agreed)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_handlers()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _saver(self, trainer: Trainer) -> LastCheckpoint:
        saver = next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
        if saver is None:
            raise ValueError("Preemption needs the callback LastCheckpoint: there would be nothing to go on from")
        return saver

    def _install_handlers(self) -> None:
        for number in self.signals:
            if not (number == signal.SIGINT and self.signal_number):
                signal.signal(number, self._record)

    def _restore_handlers(self) -> None:
        if self._active:
            self._active = False
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        """The handler. Lightning may put it back when training is over: then the signal does what it always does."""
        del frame
        if not self._active:
            signal.signal(number, self._before.get(signal.Signals(number)) or signal.SIG_DFL)
            signal.raise_signal(number)
            return
        if self._reports and not self.signal_number:  # by os.write: the signal may have interrupted a print
            os.write(2, f"{signal.Signals(number).name}: {SOON}\n".encode())
        if not (self.signal_number and signal.Signals(self.signal_number) in self.requeue):
            self.signal_number = number
        if signal.SIGINT in self.signals:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _code(self) -> int:
        """Value for the all-reduce (max): the signal's number, and 1000 more where the job is queued again."""
        requeues = self.signal_number != 0 and signal.Signals(self.signal_number) in self.requeue
        return self.signal_number + 1000 if requeues else self.signal_number

    def _stop(self, trainer: Trainer, code: int) -> None:
        number = signal.Signals(code % 1000)
        self._saver(trainer).save(trainer)
        for run_logger in trainer.loggers:
            run_logger.save()  # Slurm ends the job as soon as it is queued again
        requeued = False
        if trainer.is_global_zero:
            logger.info("%s: stopped at step %d, saved; the same command goes on", number.name, trainer.global_step)
            requeued = code >= 1000 and requeue()
        requeued = trainer.strategy.broadcast(requeued)
        raise Preempted(0 if requeued or started_by_another_rank(trainer) else 128 + number)


def requeue() -> bool:
    """Queue this Slurm job again, to start when it has ended; False, and why in the log, where that is not possible."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("job %s could not be queued again: %s", job, getattr(error, "stderr", None) or error)
        return False
    logger.info("job %s is queued again", job)
    return True
