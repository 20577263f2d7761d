"""Rows of all ranks on every rank; the only file of the benchmarks that knows ranks.

Ranks hold different numbers of rows. A rank without rows knows neither width nor dtype, so shapes are exchanged first;
rows travel padded to the longest rank and are cut afterwards. Collective: all ranks must call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.reading.ranks import gather, rank_count

T = TypeVar("T")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)


def gather_ragged(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of each rank, in rank order: the ``dist_sync_fn`` of a ``torchmetrics.Metric``.

    ``rows`` is [n, width] or [n]; where n is 0, width and dtype are those of the other ranks. torchmetrics' own gather
    needs a row on every rank. Raises ValueError on every rank where widths or dtypes differ.
    """
    device = _device(group)
    width = rows.shape[1] if rows.ndim == 2 else 0
    shape = torch.tensor([len(rows), width, DTYPES.index(rows.dtype)], device=device)
    shapes = [gathered.tolist() for gathered in _all_gather(shape, group)]
    forms = {(width, DTYPES[dtype]) for count, width, dtype in shapes if count}
    if not forms:
        return [rows for _ in shapes]
    if len(forms) > 1:
        raise ValueError(f"rows must have one width and dtype on all ranks, got {sorted(forms, key=str)}")
    width, dtype = forms.pop()
    most = max(count for count, *_ in shapes)
    padded = torch.zeros((most, width) if width else (most,), dtype=dtype, device=device)
    if len(rows):
        padded[: len(rows)] = rows.to(device)
    parts = _all_gather(padded, group)
    return [part[:count].to(rows.device) for part, (count, *_) in zip(parts, shapes, strict=True)]


def gather_rows(parts: list[Tensor], dtype: torch.dtype) -> Tensor | None:
    """All ranks' ``parts`` ([n, width] or [n] each), concatenated in rank order; None where no rank has a row."""
    rows = torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
    gathered = torch.cat(gather_ragged(rows)) if rank_count() > 1 else rows
    return gathered if len(gathered) else None


def gather_names(names: list[str]) -> list[str]:
    """The distinct names of all ranks, in rank order."""
    return list(dict.fromkeys(name for rank_names in gather(names) for name in rank_names))


def rank() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if rank_count() > 1 else 0


def rank_share(items: Sequence[T]) -> Sequence[T]:
    """This rank's share of a work list: every n-th item on n ranks."""
    return items[rank() :: rank_count()]


def _device(group: Any) -> torch.device:
    """The device whose tensors the process group moves: NCCL moves CUDA tensors only."""
    if "nccl" in dist.get_backend_config(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _all_gather(tensor: Tensor, group: Any) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, tensor, group=group)
    return gathered
