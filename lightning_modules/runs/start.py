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
from lightning_modules.runs.folder import RunFolder, new_id

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
class Wanted:
    """The command line's wishes for a run."""

    folder: RunFolder
    checkpoint: str | None  # --ckpt_path
    resume: Resume
    settings: Flat
    limits: Limits
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
    """The checkpoint to go on from; None to start. Every rank chooses alike.

    A run that began with another run's checkpoint goes on from its own where it has one.
    """
    if checkpoint is None or (anew and checkpoint == "last"):
        return None
    last, damaged = (None, []) if anew else folder.last_checkpoint()
    for one in damaged:
        logger.warning("%s is cut short or damaged; the one before it is taken", one)
    if checkpoint == "last":
        return last
    own = last is not None and (
        folder.record().get("origin") == checkpoint or Path(checkpoint).resolve() == last.resolve()
    )
    return last if own else Path(checkpoint)


def decide(wanted: Wanted) -> Decision:
    """Look at what is there. The lock must be held.

    Raises:
        RunRefused, CheckpointError: one line for the user.
    """
    folder, anew = wanted.folder, wanted.resume.anew or wanted.checkpoint is None
    record = folder.record()
    if anew and begun_by_this_job(record):
        return decide(replace(wanted, checkpoint="last", resume=replace(wanted.resume, anew=False)))
    checkpoint = choose(folder, wanted.checkpoint, wanted.resume.anew)
    there = folder.holds_a_run()
    if checkpoint is None:
        same = not anew and record.get("settings") is not None and not _told_of(record["settings"], wanted.settings)
        if there and not same:
            return Decision(run=new_id(), aside=folder.aside())
        return Decision(run=record.get("id", new_id()) if same else new_id())
    facts = read_facts(checkpoint)
    own = checkpoint.resolve().parent == folder.checkpoints.resolve() and checkpoint.stem.startswith("last")
    again = not anew and record.get("origin") == wanted.checkpoint  # it has saved nothing yet: once more from there
    if there and not own and not again and not anew:
        raise RunRefused(
            f"{folder.path} holds a run already: --name OTHER goes on from {checkpoint} apart, --ckpt_path last goes "
            "on with the run, --resume.anew true moves it aside"
        )
    changed = _check(facts, wanted)
    aside = folder.aside() if there and not own and not again else None
    if aside is not None and checkpoint.resolve().is_relative_to(folder.path.resolve()):
        checkpoint = aside / checkpoint.resolve().relative_to(folder.path.resolve())
    return Decision(
        finished=_finished(facts, wanted) if own else None,
        checkpoint=checkpoint,
        step=facts.step,
        run=record.get("id") or facts.run.get("id") or new_id() if own or again else new_id(),
        aside=aside,
        origin=record.get("origin") if own else wanted.checkpoint,
        changed=changed,
        history=list(facts.run.get("history", [])),
        shards=facts.run.get("shards"),
        config=facts.run.get("config") if own else None,
    )


def begun_by_this_job(record: Mapping[str, Any]) -> bool:
    """True if an earlier start of this very Slurm job began the run: then even a command that starts anew goes on."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and record.get("job") == job and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _check(facts: Facts, wanted: Wanted) -> list[Change]:
    """The settings that changed. Raises RunRefused where one of them is not accepted, or the weights do not fit."""
    changed = [] if facts.settings is None else changes(facts.settings, wanted.settings)
    if wanted.global_batch is not None and facts.global_batch == wanted.global_batch:
        changed = [one for one in changed if one.name not in ("data.batch_size", "data.global_batch_size")]
    refused = [one for one in changed if not one.free and one.name != "data.shards"]
    refused = [one for one in refused if not accepted(one, wanted.resume.accept)]
    if refused:
        raise RunRefused(refusal(refused, facts.path, facts.step))
    if words := misfit(facts, wanted.method, wanted.shapes, wanted.sizes):
        raise RunRefused(f"{words}; --name OTHER trains apart, --ckpt_path takes another checkpoint")
    return changed


def check_shards(decision: Decision, accept: bool | Iterable[str], shards: str | None) -> Decision:
    """Compare what the data module found with what the checkpoint's run was trained on.

    The same shards in another place are the same data.

    Raises:
        RunRefused: where they are others.
    """
    named = next((one for one in decision.changed if one.name == "data.shards"), None)
    if decision.shards is None:  # remote, or not known
        refused = named
    elif decision.shards == shards:
        return replace(decision, changed=[one for one in decision.changed if one is not named])
    else:
        refused = named or Change("data.shards", decision.shards, shards)
    if refused is None or accepted(refused, accept):
        return decision
    assert decision.checkpoint is not None
    raise RunRefused(refusal([refused], decision.checkpoint, decision.step))


def refusal(refused: Sequence[Change], checkpoint: Path, step: int) -> str:
    """The line that names each setting that differs, and what to do."""
    way = "--name OTHER trains apart, --resume.accept true goes on"
    for shown in range(len(refused), 0, -1):
        rest = "" if shown == len(refused) else f" and {len(refused) - shown} more"
        said = ", ".join(map(str, refused[:shown])) + rest
        line = f"{checkpoint} (step {step}) has other settings: {said}; {way}"
        if len(line) <= ROOM or shown == 1:
            return line
    raise AssertionError


def _told_of(old: Flat, new: Flat) -> list[Change]:
    return [one for one in changes(old, new) if not one.free]


def _finished(facts: Facts, wanted: Wanted) -> str | None:
    """The line for a run that has nothing left to do; None where it has."""
    steps, epochs = wanted.limits.steps, wanted.limits.epochs
    if steps != -1 and facts.step >= steps:
        return (
            f"{wanted.folder.path}: finished, {facts.step} steps of trainer.max_steps {steps}; "
            f"--trainer.max_steps {facts.step + 1} or more trains longer, --name OTHER apart"
        )
    if epochs != -1 and facts.epochs >= epochs:
        return (
            f"{wanted.folder.path}: finished, {facts.epochs} epochs ({facts.step} steps) of trainer.max_epochs "
            f"{epochs}; "
            f"--trainer.max_epochs {facts.epochs + 1} or more trains longer, --name OTHER apart"
        )
    return None


def check_readable(checkpoint: str | None) -> None:
    """Raises CheckpointError where --ckpt_path names something that is not there."""
    if checkpoint not in (None, "last") and not Path(checkpoint).exists():
        raise CheckpointError(
            f"--ckpt_path {checkpoint}: no such checkpoint; last goes on with the run, null starts anew"
        )
