"""Reads a checkpoint that FSDP2's ranks wrote together: a folder with slices of weights and optimiser, ``meta.pt``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

META, WEIGHTS, OPTIMISER = "meta.pt", "state_dict.", "optimizer_"  # Lightning's names


def read_sharded(folder: Path) -> dict[str, Any]:
    """What a checkpoint in one file would hold, but for the optimiser's state; in this process alone.

    The list of slices, ``.metadata``, is a pickle of PyTorch's: read folders of people you trust.

    Raises:
        ValueError: where the folder is no such checkpoint, or a file of it is damaged.
    """
    saved = _meta(folder)
    try:
        files = FileSystemReader(folder)
        known = files.read_metadata().state_dict_metadata
        weights: dict[str, Any] = {
            name: torch.empty(tensor.size, dtype=tensor.properties.dtype)
            for name, tensor in known.items()
            if name.startswith(WEIGHTS) and isinstance(tensor, TensorStorageMetadata)
        }
        load(weights, storage_reader=files, no_dist=True)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise ValueError(f"{folder} is truncated or damaged: {reason}") from error
    return saved | {"state_dict": {name.removeprefix(WEIGHTS): tensor for name, tensor in weights.items()}}


def put_together(folder: Path) -> dict[str, Any]:
    """All that a checkpoint in one file would hold, the optimiser's state too: a run without FSDP2 goes on from it.

    Raises as ``read_sharded``.
    """
    saved = _meta(folder)
    if not is_complete(folder):
        raise ValueError(f"{folder} is truncated or damaged: slices are missing")
    with tempfile.TemporaryDirectory() as scratch:
        dcp_to_torch_save(folder, Path(scratch, "all"))
        slices = torch.load(Path(scratch, "all"), map_location="cpu", weights_only=True)
    states = [_by_number(slices[name]) for name in sorted(slices) if name.startswith(OPTIMISER)]
    return saved | {"state_dict": slices["state_dict"], "optimizer_states": states}


def _meta(folder: Path) -> dict[str, Any]:
    if not (folder / META).is_file():
        raise ValueError(f"{folder} holds no sharded checkpoint: it has no {META}")
    return torch.load(folder / META, map_location="cpu", weights_only=True)


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state as PyTorch keeps it: weights are numbers, not names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: i for i, name in enumerate(names)}
    groups = [group | {"params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: one for name, one in state["state"].items()}, "param_groups": groups}


def is_complete(folder: Path) -> bool:
    """Whether all files of a sharded checkpoint are there, as long as they should be."""
    try:
        slices = FileSystemReader(folder).read_metadata().storage_data.values()
        sizes = {name: (folder / name).stat().st_size for name in {one.relative_path for one in slices}}
    except (CheckpointException, OSError, EOFError, UnpicklingError):
        return False
    return is_zipfile(folder / META) and all(one.offset + one.length <= sizes[one.relative_path] for one in slices)
