"""Weights files: find one in the package, in a folder or on the hub, and read the tensors in it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from datamodules.spelling import did_you_mean
from lightning_modules.networks.weights.hub import INDEXES, OPEN_CLIP, TRANSFORMERS, from_hub, parts_of, weights_of
from lightning_modules.networks.weights.open_clip_names import PREFIX as PREFIX_OF_NAMES
from lightning_modules.networks.weights.open_clip_names import from_name
from lightning_modules.networks.weights.parameter_map import State
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

CONTAINERS = ("state_dict", "model")  # keys under which training scripts keep the weights
KEY = "grainclip"  # the entry of a run's checkpoint with its provenance
PREFIX = "module."  # left by DistributedDataParallel
SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "weights"  # models that come with the package, by name
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(source: str | Path) -> Path:
    """The weights file of a source: itself, the one in a folder, the one of a model that comes with the package
    (``scenes-base``), of open_clip's list (``open_clip:NAME/TAG``) or of a hub repository (then downloaded). A file or
    folder of that name goes first. Of weights in several files it is their index.

    Its config file, where there is one, lies beside it.

    Raises:
        FileNotFoundError: where there is none, or the hub cannot be reached.
        ValueError: where open_clip has no such name or tag.
    """
    path = Path(source)
    if not path.exists() and str(source) in shipped_models():
        path = SHIPPED / path
    if path.is_file():
        return path
    if path.is_dir():
        weights = weights_of({file.name for file in path.iterdir() if file.is_file()})
        if weights is None:
            raise FileNotFoundError(f"{source} holds no weights: looked for {', '.join((*TRANSFORMERS, *OPEN_CLIP))}")
        return path / weights
    if str(source).startswith(PREFIX_OF_NAMES):
        return from_name(str(source))
    if HUB_ID.fullmatch(str(source)):
        return from_hub(str(source))
    known = shipped_models()
    raise FileNotFoundError(
        f"{source} is no file, no folder, no hub id of the form owner/name and none of the package's models "
        f"({', '.join(known) or 'none'}){did_you_mean(str(source), known)}"
    )


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*/")) if SHIPPED.is_dir() else []


def read_tensors(path: Path) -> State:
    """The state dict in a safetensors or a PyTorch file, or in the files of an index, without a trainer's wrapping.

    Raises:
        ValueError: where the file is truncated, of another kind, a run's checkpoint, or holds no state dict.
        FileNotFoundError: where a file that an index names is missing.
    """
    if path.name in INDEXES:
        parts = [path.with_name(name) for name in parts_of(path)]
        missing = [part.name for part in parts if not part.is_file()]
        if missing:
            raise FileNotFoundError(f"{path} names files that are missing beside it: {', '.join(missing)}")
        return {name: tensor for part in parts for name, tensor in read_tensors(part).items()}
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # published checkpoints carry their arguments
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path} is truncated or no weights file: {why_unreadable(error)}") from error
    if isinstance(state, dict) and KEY in state:
        raise ValueError(
            f"{path} is a run's checkpoint: `lightning export {path} FOLDER` makes a model of it, to start from FOLDER"
        )
    for name in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} must hold a state dict of tensors, got {type(state).__name__}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
