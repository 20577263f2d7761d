"""Reads a checkpoint that FSDP2's ranks wrote together: a folder with slices of the weights, and ``meta.pt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

META, WEIGHTS = "meta.pt", "state_dict."  # Lightning's names


def read_sharded(folder: Path) -> dict[str, Any]:
    """What a checkpoint in one file would hold, but for the optimiser's state; in this process alone.

    The list of slices, ``.metadata``, is a pickle of PyTorch's: read folders of people you trust.

    Raises:
        ValueError: where the folder is no such checkpoint, or a file of it is damaged.
    """
    if not (folder / META).is_file():
        raise ValueError(f"{folder} holds no sharded checkpoint: it has no {META}")
    saved = torch.load(folder / META, map_location="cpu", weights_only=True)
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
