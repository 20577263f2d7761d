"""Weights files: find one in a folder or on the hub, and read the tensors in it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_modules.networks.weights.hub import OPEN_CLIP, TRANSFORMERS, from_hub, weights_of
from lightning_modules.networks.weights.parameter_map import State
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

CONTAINERS = ("state_dict", "model")  # keys under which training scripts keep the weights
PREFIX = "module."  # left by DistributedDataParallel
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(source: str | Path) -> Path:
    """The weights file of a source: itself, the one in a folder, or the one of a hub repository (then downloaded).

    Its config file, where there is one, lies beside it.

    Raises:
        FileNotFoundError: where there is none, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        weights = weights_of({file.name for file in path.iterdir() if file.is_file()})
        if weights is None:
            raise FileNotFoundError(f"{source} holds no weights: looked for {', '.join((*TRANSFORMERS, *OPEN_CLIP))}")
        return path / weights
    if HUB_ID.fullmatch(str(source)):
        return from_hub(str(source))
    raise FileNotFoundError(f"{source} is no file, no folder and no hub id of the form owner/name")


def read_tensors(path: Path) -> State:
    """The state dict in a safetensors or a PyTorch file, without a trainer's wrapping.

    Raises:
        ValueError: where the file is truncated, of another kind, or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # published checkpoints carry their arguments
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path} is truncated or no weights file: {why_unreadable(error)}") from error
    for name in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} must hold a state dict of tensors, got {type(state).__name__}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
