"""Checkpoints that are whole or not there, whatever happens while one is written.

Lightning writes a checkpoint to the folder for temporary files and moves it. Where that is another disk, as on most
clusters, the move is a copy, and a job killed in its middle leaves half a file in the place of the last good one. Here
it is written beside its place, brought to the disk and renamed: the step that the file system does in one go.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override


class CheckpointError(OSError):
    """A checkpoint could not be written; the one before is untouched."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes local files as said above; what has a URL, Lightning's way."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        beside = file.with_name(f".{file.name}.writing")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as out:
                torch.save(checkpoint, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(beside, file)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            raise CheckpointError(
                f"{file} could not be written: {error}; the one before it, if any, is whole"
            ) from error
