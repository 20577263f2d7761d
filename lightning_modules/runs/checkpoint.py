"""Facts of a checkpoint and the run that wrote it, read without its weights before anything else is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_modules.checkpoints.atomic_save import CheckpointError, is_whole
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.setting_changes import Change, Flat
from lightning_modules.checkpoints.sharded import META
from lightning_modules.checkpoints.weight_interpolation import AVERAGED
from lightning_modules.methods.known_methods import know_all_methods
from lightning_modules.networks.contract import shown_config
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

RUN = "grainclip_run"  # the key under which a checkpoint keeps its run's id, settings, config and history
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Facts:
    """A checkpoint's path, progress, method, run and settings."""

    path: Path
    step: int
    epochs: int  # that are done
    measured: int | None  # the step whose numbers it holds; None where validation has not come to its end yet
    method: str  # "" where the checkpoint does not say
    global_batch: int | None
    run: dict[str, Any]  # id, settings, history, config; empty where no command wrote it
    shapes: Shapes  # of the weights; empty where they are in slices
    sizes: dict[str, Any]  # of the encoder; empty where the checkpoint does not say

    @property
    def settings(self) -> Flat | None:
        """The settings of the run when it was written; None where it does not say."""
        return self.run.get("settings")


def read_facts(path: Path) -> Facts:
    """Read a checkpoint's facts; of a sharded one its ``meta.pt`` alone.

    Raises:
        CheckpointError: where there is none, or it is damaged or not a run's; one line that says which.
    """
    if not path.exists():
        raise CheckpointError(f"--ckpt_path {path}: no such checkpoint")
    file = path / META if path.is_dir() else path
    if not file.is_file() or not is_whole(file):
        raise CheckpointError(f"{path} is cut short or damaged, or no checkpoint; --ckpt_path takes another one")
    know_all_methods()
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise CheckpointError(f"{path} cannot be read: {why_unreadable(error)}") from error
    if not isinstance(saved, dict) or not {"loops", "global_step"} <= saved.keys():
        raise CheckpointError(f"{path} holds no run to go on with: it was not written by `lightning fit`")
    origin = saved.get(KEY, {})
    weights: Mapping[str, Any] = saved.get("state_dict", {})
    return Facts(
        path=path,
        step=saved["global_step"],
        epochs=saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"],
        measured=origin.get("numbers_step"),
        method=origin.get("method", ""),
        global_batch=saved.get("GranularityData", {}).get("global_batch"),
        run=saved.get(RUN, {}),
        shapes={name: tuple(value.shape) for name, value in weights.items() if isinstance(value, torch.Tensor)},
        sizes=origin.get("encoder", {}),
    )


def misfit(facts: Facts, method: str, shapes: Shapes, sizes: Mapping[str, Any]) -> str | None:
    """The line for a checkpoint whose weights are not those of the model to be trained; None where they are.

    Args:
        facts: the checkpoint's.
        method: name of the model's class.
        shapes: of the model's weights.
        sizes: the encoder's settings.
    """
    if facts.method and facts.method != method:
        return f"{facts.path} is of {facts.method}, this run is of {method}"
    if not facts.shapes:
        return None
    saved = {name: shape for name, shape in facts.shapes.items() if not name.startswith(AVERAGED)}
    current = {name: shape for name, shape in shapes.items() if not name.startswith(AVERAGED)}
    names = [name for name in (*current, *saved) if current.get(name) != saved.get(name)]
    if not names:
        return None
    there, here = shown_config(facts.sizes), shown_config(dict(sizes))
    different = [name for name, size in there.items() if name in here and size != here[name]]
    if different:
        changed = [str(Change(f"model.encoder.{name}", there[name], here[name])) for name in different]
        return f"{facts.path} is of another size: {', '.join(changed)}"
    old, new = _size(saved.get(names[0])), _size(current.get(names[0]))
    return f"{facts.path} is of another size: {names[0]} is {old} there and {new} here"


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
