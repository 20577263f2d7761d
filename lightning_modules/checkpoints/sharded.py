"""Reads a checkpoint that FSDP2's ranks wrote together: a folder with slices of weights and optimiser, ``meta.pt``.

PyTorch's list of slices, ``.metadata``, and the numbers beside the tensors are pickles. They are read without calling
anything but PyTorch's few classes for such lists, so a folder of somebody else's runs no code.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict, load
from typing_extensions import override

META, WEIGHTS, OPTIMISER = "meta.pt", "state_dict.", "optimizer_"  # Lightning's names
LISTED = {  # what a list of slices is made of, dtypes apart
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "TensorStorageMetadata"),
    ),
    "pathlib": ("PosixPath", "WindowsPath"),
}
DAMAGED = (pickle.UnpicklingError, EOFError, OSError, AttributeError, ImportError, IndexError, KeyError, TypeError)


class _ListUnpickler(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        listed = global_name in LISTED.get(module_name, ())
        if listed or (module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which a list of slices does not")


class SliceReader(FileSystemReader):
    """PyTorch's reader, with a list of slices that runs no code."""

    @override
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            listed = _ListUnpickler(file).load()
        if not isinstance(listed, Metadata):
            raise pickle.UnpicklingError(f"it holds a {type(listed).__name__}, no list of slices")
        return listed


class _WholePlanner(_EmptyStateDictLoadPlanner):
    """Loads everything in the folder; what is no tensor is read by ``torch.load(weights_only=True)``."""

    @override
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        loaded = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)


def read_sharded(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint in one file, without the optimiser's state; in this process alone.

    Raises:
        ValueError: where the folder is no such checkpoint, or a file of it is damaged.
    """
    saved = _meta(folder)
    try:
        files = SliceReader(folder)
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
    except DAMAGED as error:
        raise ValueError(f"{folder}/.metadata is damaged: {error}") from error
    return saved | {"state_dict": {name.removeprefix(WEIGHTS): tensor for name, tensor in weights.items()}}


def put_together(folder: Path) -> dict[str, Any]:
    """All that a checkpoint in one file would hold, the optimiser's state too: a run without FSDP2 goes on from it.

    Raises as ``read_sharded``.
    """
    saved = _meta(folder)
    if not is_complete(folder):
        raise ValueError(f"{folder} is truncated or damaged: slices are missing")
    slices: dict[str, Any] = {}
    _load_state_dict(slices, storage_reader=SliceReader(folder), planner=_WholePlanner(), no_dist=True)
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
    return {"state": {number[name]: values for name, values in state["state"].items()}, "param_groups": groups}


def is_complete(folder: Path) -> bool:
    """True if all files of a sharded checkpoint are there in their full length."""
    try:
        slices = SliceReader(folder).read_metadata().storage_data.values()
        sizes = {name: (folder / name).stat().st_size for name in {s.relative_path for s in slices}}
    except (CheckpointException, *DAMAGED):
        return False
    return is_zipfile(folder / META) and all(s.offset + s.length <= sizes[s.relative_path] for s in slices)
