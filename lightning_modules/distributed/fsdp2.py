"""The strategy ``FullySharded``: Lightning's ModelParallelStrategy, as a config can name it.

Lightning wants both sizes of the device mesh typed in; here it is as large as the run, all of it data parallel. Two
things that Lightning leaves to DDP are done here too: gradients stay on their rank while they accumulate, and a sharded
checkpoint replaces the one before in one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override

from datamodules.atomic_write import draft_name
from lightning_modules.checkpoints.atomic_save import CheckpointError, put_in_place, remove
from lightning_modules.checkpoints.metadata import KEY, group_sizes
from lightning_modules.checkpoints.sharded import META
from lightning_modules.distributed.wrapping import sharded


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all ranks.

    Args:
        checkpoint: ``sharded``: a folder into which every rank writes its slices; ``whole``: one file, as without
            FSDP, put together in the memory of rank 0. Either goes on with any number of ranks.
        process_group_backend: None: by the kind of device.
        timeout: for ranks that wait for each other.

    Raises:
        ValueError: where ``checkpoint`` is neither of these.
    """

    def __init__(
        self,
        checkpoint: Literal["sharded", "whole"] = "whole",
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        if checkpoint not in ("sharded", "whole"):
            raise ValueError(f"strategy.checkpoint must be sharded or whole, got {checkpoint!r}")
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=checkpoint == "sharded",
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @contextmanager
    @override
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients are added up, whole, on each rank; the backward pass after reduces them once."""
        assert self.model is not None
        units = list(sharded(self.model))
        for unit in units:
            unit.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for unit in units:
                unit.set_requires_gradient_sync(True, recurse=False)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises ``CheckpointError`` where other parts were trained, or rates were parted otherwise: PyTorch puts
        slices of the optimiser's state back into the same groups only.
        """
        path = Path(self.broadcast(checkpoint_path))
        file = path / META if path.is_dir() else path
        groups = torch.load(file, map_location="cpu", mmap=True, weights_only=True).get(KEY, {}).get("groups")
        if self.optimizers and groups and groups != group_sizes(self.optimizers):
            raise CheckpointError(
                f"{path} was trained with other frozen parts, adapters or rates by part (model.freeze, lora, optim): "
                "FSDP2 goes on with the same ones only; without FSDP2 these may change"
            )
        return super().load_checkpoint(checkpoint_path, weights_only)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A sharded checkpoint is written beside the one before, then takes its place: one of both is always whole."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(filepath))
        draft = Path(self.broadcast(path.with_name(draft_name(path.name))))
        if self.is_global_zero:
            remove(draft)
        self.barrier()
        super().save_checkpoint(checkpoint, draft, storage_options)
        self.barrier()
        if self.is_global_zero:
            put_in_place(draft, path)
