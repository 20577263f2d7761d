"""Before a run starts or goes on: the first rank takes the lock and decides, and nothing is written until all agree."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.checkpoints.setting_changes import Change, Flat, accepted, changes
from lightning_modules.runs.checkpoint import Facts, Shapes, misfit, read_facts
from lightning_modules.runs.folder import CONFIG, RunFolder, new_id

logger = logging.getLogger("grainclip")
ROOM = 200  # characters of an error's line


class RunRefused(RuntimeError):
    """A run that must not start or go on; one line says why and what to do."""


@dataclass(frozen=True)
class Resume:
    """The way in which a run goes on.

    Args:
        accept: whether settings of model, data and seed that differ from the checkpoint's are taken; or the names of
            those that are, such as ``[model.optim]``.
        anew: whether the run starts anew; the folder of the one before is moved aside.
    """

    accept: bool | list[str] = False
    anew: bool = False


@dataclass(frozen=True)
class Limits:
    """The end of training, in epochs and steps; -1 for no limit."""

    epochs: int
    steps: int


@dataclass(frozen=True)
class RunPlan:
    """A run as the command line asks for it."""

    folder: RunFolder
    checkpoint: str | None  # --ckpt_path
    resume: Resume
    settings: Flat
    limits: Limits
    validates: bool  # by the settings of trainer and data
    method: str
    shapes: Shapes
    sizes: Mapping[str, Any]  # the encoder's settings
    global_batch: int | None  # over all ranks


@dataclass(frozen=True)
class Decision:
    """The first rank's decision, for all of them."""

    refusal: str | None = None
    finished: str | None = None  # what to say where there is nothing left to train
    checkpoint: Path | None = None  # to go on from
    step: int = 0
    run: str = ""  # the run's id
    aside: Path | None = None  # where the folder goes before the run starts
    origin: str | None = None  # the other run's checkpoint with which this one began
    changed: list[Change] = field(default_factory=list)  # since the checkpoint
    history: list[dict[str, Any]] = field(default_factory=list)  # of the checkpoint
    shards: str | None = None  # what the checkpoint's run was trained on
    config: str | None = None  # of the checkpoint of this very run


def choose(folder: RunFolder, checkpoint: str | None, anew: bool) -> Path | None:
    """The checkpoint to go on from; None to start. All ranks choose the same.

    A run that began with another run's checkpoint goes on from its own where it has one.
    """
    if checkpoint is None or (anew and checkpoint == "last"):
        return None
    last, damaged = (None, []) if anew else folder.last_checkpoint()
    for file in damaged:
        logger.warning("%s is cut short or damaged; the one before it is taken", file)
    if checkpoint == "last":
        return last
    is_own = last is not None and (
        folder.record().get("origin") == checkpoint or Path(checkpoint).resolve() == last.resolve()
    )
    return last if is_own else Path(checkpoint)


def decide(plan: RunPlan) -> Decision:
    """Decide how a run starts, goes on or ends, by its folder and checkpoint. The lock must be held.

    Raises:
        RunRefused, CheckpointError: one line for the user.
    """
    folder, anew = plan.folder, plan.resume.anew or plan.checkpoint is None
    record = folder.record()
    if anew and begun_by_this_job(record):
        return decide(replace(plan, checkpoint="last", resume=replace(plan.resume, anew=False)))
    checkpoint = choose(folder, plan.checkpoint, plan.resume.anew)
    exists = folder.holds_a_run()
    if checkpoint is None:
        old = record.get("settings")
        same = not anew and old is not None and not _restricted_changes(old, plan.settings)
        if exists and not same:
            return Decision(run=new_id(), aside=folder.aside())
        return Decision(run=record.get("id", new_id()) if same else new_id())
    facts = read_facts(checkpoint)
    is_own = checkpoint.resolve().parent == folder.checkpoints.resolve() and checkpoint.stem.startswith("last")
    again = not anew and record.get("origin") == plan.checkpoint  # it has saved nothing yet: once more from there
    if exists and not is_own and not again and not anew:
        raise RunRefused(
            f"{folder.path} holds a run already: --name OTHER goes on from {checkpoint} apart, --ckpt_path last goes "
            "on with the run, --resume.anew true moves it aside"
        )
    changed = _check(facts, plan)
    aside = folder.aside() if exists and not is_own and not again else None
    if aside is not None and checkpoint.resolve().is_relative_to(folder.path.resolve()):
        checkpoint = aside / checkpoint.resolve().relative_to(folder.path.resolve())
    return Decision(
        finished=_finished(facts, plan) if is_own else None,
        checkpoint=checkpoint,
        step=facts.step,
        run=record.get("id") or facts.run.get("id") or new_id() if is_own or again else new_id(),
        aside=aside,
        origin=record.get("origin") if is_own else plan.checkpoint,
        changed=changed,
        history=list(facts.run.get("history", [])),
        shards=facts.run.get("shards"),
        config=facts.run.get("config") if is_own else None,
    )


def begun_by_this_job(record: Mapping[str, Any]) -> bool:
    """True if an earlier start of this very Slurm job began the run: then even a command that starts anew goes on."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and record.get("job") == job and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _check(facts: Facts, plan: RunPlan) -> list[Change]:
    """The settings that changed. Raises RunRefused where one of them is not accepted, or the weights do not fit."""
    changed = [] if facts.settings is None else changes(facts.settings, plan.settings)
    if plan.global_batch is not None and facts.global_batch == plan.global_batch:
        changed = [c for c in changed if c.name not in ("data.batch_size", "data.global_batch_size")]
    refused = [c for c in changed if not c.free and c.name != "data.shards"]
    refused = [c for c in refused if not accepted(c, plan.resume.accept)]
    if refused:
        raise RunRefused(refusal(refused, facts.path, facts.step))
    if message := misfit(facts, plan.method, plan.shapes, plan.sizes):
        raise RunRefused(f"{message}; --name OTHER trains apart, --ckpt_path takes another checkpoint")
    return changed


def check_shards(decision: Decision, accept: bool | Iterable[str], shards: str | None) -> Decision:
    """Compare the data module's shards with those that the checkpoint's run was trained on.

    The same shards in another place are the same data.

    Raises:
        RunRefused: where they differ.
    """
    change = next((c for c in decision.changed if c.name == "data.shards"), None)
    if decision.shards is None:  # remote, or not known
        refused = change
    elif decision.shards == shards:
        return replace(decision, changed=[c for c in decision.changed if c is not change])
    else:
        refused = change or Change("data.shards", decision.shards, shards)
    if refused is None or accepted(refused, accept):
        return decision
    assert decision.checkpoint is not None
    raise RunRefused(refusal([refused], decision.checkpoint, decision.step))


def refusal(refused: Sequence[Change], checkpoint: Path, step: int) -> str:
    """The error for changed settings: their names, old and new values, and the remedy."""
    remedy = "--name OTHER trains apart, --resume.accept true goes on"
    for shown in range(len(refused), 0, -1):
        rest = "" if shown == len(refused) else f" and {len(refused) - shown} more"
        differences = ", ".join(map(str, refused[:shown])) + rest
        line = f"{checkpoint} (step {step}) has other settings: {differences}; {remedy}"
        if len(line) <= ROOM or shown == 1:
            return line
    raise AssertionError


def _restricted_changes(old: Flat, new: Flat) -> list[Change]:
    """The changes that need the user's acceptance."""
    return [change for change in changes(old, new) if not change.free]


def _finished(facts: Facts, plan: RunPlan) -> str | None:
    """The line for a run that has nothing left to do; None where it has."""
    steps, epochs = plan.limits.steps, plan.limits.epochs
    if steps != -1 and facts.step >= steps:
        return (
            f"{plan.folder.path}: finished, {facts.step} steps of trainer.max_steps {steps}; "
            f"--trainer.max_steps {facts.step + 1} or more trains longer, --name OTHER apart{_unmeasured(facts, plan)}"
        )
    if epochs != -1 and facts.epochs >= epochs:
        return (
            f"{plan.folder.path}: finished, {facts.epochs} epochs ({facts.step} steps) of trainer.max_epochs "
            f"{epochs}; "
            f"--trainer.max_epochs {facts.epochs + 1} or more trains longer, --name OTHER apart"
        )
    return None


def _unmeasured(facts: Facts, plan: RunPlan) -> str:
    """The words for a last step that was not validated: no validation was due then, or a kill broke it off."""
    if not plan.validates or facts.measured == facts.step:
        return ""
    last = "nothing was measured" if facts.measured is None else f"its numbers are of step {facts.measured}"
    return f"; {last}, `lightning validate --config {plan.folder.path / CONFIG}` measures step {facts.step}"


def check_readable(checkpoint: str | None) -> None:
    """Raises CheckpointError where --ckpt_path names something that is not there."""
    if checkpoint not in (None, "last") and not Path(checkpoint).exists():
        raise CheckpointError(
            f"--ckpt_path {checkpoint}: no such checkpoint; last goes on with the run, null starts anew"
        )
