"""Small values exchanged by ranks. Collective: all ranks must call, the same number of times and in the same order."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank_count() -> int:
    """The number of processes in the default group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(value: T) -> list[T]:
    """The values of all ranks, in order of rank. They travel pickled, so they should be small."""
    if rank_count() == 1:
        return [value]
    values = [value] * rank_count()
    dist.all_gather_object(values, value)
    return values
