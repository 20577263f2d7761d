"""The one file of the benchmarks that knows ranks: every rank gets the rows of all.

Ranks hold different numbers of rows, and one may hold none, so it knows neither width nor device: shapes are
exchanged first, rows travel padded to the longest rank and are cut afterwards. Collective: all ranks must call.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.reading.ranks import gather, rank_count


def gather_rows(parts: list[Tensor], dtype: torch.dtype) -> Tensor | None:
    """All ranks' ``parts`` ([n, width] or [n] each), concatenated in rank order; None where no rank has any.

    Raises ValueError on every rank where widths differ.
    """
    rows = torch.cat(parts) if parts else None
    if world_size() == 1:
        return rows
    device = _device()
    width = -1 if rows is None else rows.shape[1] if rows.ndim == 2 else 0
    shapes = _all_gather(torch.tensor([0 if rows is None else len(rows), width], device=device))
    counts, widths = (column.tolist() for column in torch.stack(shapes).unbind(1))
    known = {w for w in widths if w >= 0}
    if not known:
        return None
    if len(known) > 1:
        raise ValueError(f"rows must have one width on all ranks, got {sorted(known)}")
    width = known.pop()
    padded = torch.zeros((max(counts), width) if width else (max(counts),), dtype=dtype, device=device)
    if rows is not None:
        padded[: len(rows)] = rows.to(device)
    return torch.cat([part[:n] for part, n in zip(_all_gather(padded), counts, strict=True)])


def gather_names(names: list[str]) -> list[str]:
    """The distinct names of all ranks, in rank order."""
    return list(dict.fromkeys(name for one in gather(names) for name in one))


def world_size() -> int:
    """How many ranks there are."""
    return rank_count()


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def _device() -> torch.device:
    """Where the process group moves tensors: NCCL moves nothing but CUDA's."""
    if "nccl" in dist.get_backend_config():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _all_gather(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor)
    return gathered
