"""The only file that knows ranks: collectives on blocks of rows whose number differs from rank to rank.

A contrastive loss compares rows of this rank with rows of all ranks. ``ProcessGroup`` gathers the rows, returns summed
gradients to the rows' ranks and reduces statistics. It is hidden from autograd: the losses call it in their own forward
and backward passes. Without ``torch.distributed``, or with one rank, every call returns its input.

Reduce-scatter is an all-reduce and a slice where the backend has no reduce-scatter (gloo).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor


class ProcessGroup(NamedTuple):
    """The processes of a contrast: the index of this one among ``size``."""

    index: int = 0  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index
    size: int = 1

    @classmethod
    def world(cls) -> ProcessGroup:
        """All processes of the default group; only this one where there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def counts(self, rows: int, device: torch.device) -> list[int]:
        """The number of rows of each rank. Synchronises with the device."""
        if self.size == 1:
            return [rows]
        count = torch.full((1,), rows, device=device)
        counts = [torch.empty_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count)
        return torch.cat(counts).tolist()

    def largest(self, number: int, device: torch.device) -> int:
        """The largest of all ranks' numbers. Synchronises with the device where there are several."""
        return number if self.size == 1 else int(self.maximum(torch.full((), number, device=device)))

    def gather(self, rows: Shaped[Tensor, " n *D"], counts: list[int]) -> Shaped[Tensor, " N *D"]:
        """The rows of all ranks, in order of rank."""
        if self.size == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        blocks = padded.new_empty(self.size, *padded.shape)
        dist.all_gather(list(blocks.unbind(0)), padded)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    def scatter_sum(self, rows: Float[Tensor, " N *D"], counts: list[int]) -> Float[Tensor, " n *D"]:
        """The sum over ranks of this rank's rows: the reverse of `gather`, for gradients."""
        if self.size == 1:
            return rows
        if f"{rows.device.type}:gloo" in dist.get_backend_config():
            return self.local(self.total(rows), counts)
        blocks = rows.new_zeros(self.size, max(counts), *rows.shape[1:])
        for block, part in zip(blocks, rows.split(counts), strict=True):
            block[: len(part)] = part
        padded = torch.empty_like(blocks[0])
        dist.reduce_scatter_tensor(padded, blocks.flatten(0, 1))
        return padded[: counts[self.index]]

    def local(self, rows: Shaped[Tensor, " N *D"], counts: list[int]) -> Shaped[Tensor, " n *D"]:
        """This rank's rows among those of all ranks."""
        return rows.split(counts)[self.index]

    def total(self, x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """The sum over ranks of a tensor of equal shape on each; may overwrite ``x``."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def maximum(self, x: Num[Tensor, " ..."]) -> Num[Tensor, " ..."]:
        """The elementwise maximum over ranks of a tensor of equal shape on each."""
        if self.size == 1:
            return x
        largest = x.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest


def shared_mean(total: Float[Tensor, ""], count: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """``ranks * total / (count summed over ranks)``; 0, still attached to the graph, where the count is 0.

    DDP and FSDP average gradients over ranks; with this factor the average is the gradient of the mean over the rows of
    all ranks, however uneven their numbers. Likewise the value's mean over ranks is the loss of the whole batch.
    """
    ranks = ProcessGroup.world()
    counted = ranks.total(count.detach().clone())
    return total * (ranks.size / torch.where(counted > 0, counted, 1))


def shared_means(totals: Float[Tensor, " M"], counts: Int[Tensor, " M"], least: int) -> Float[Tensor, ""]:
    """The mean over M slots of each slot's mean over all ranks' rows, scaled as `shared_mean` does.

    Slots that fewer than ``least`` rows of all ranks fill are left out; 0, still attached to the graph, where all are.
    M may differ between ranks: a slot that a rank lacks counts as empty.
    """
    ranks = ProcessGroup.world()
    slots = len(counts)
    longest = ranks.largest(slots, counts.device)
    all_counts = totals.new_zeros(longest)
    all_counts[:slots] = counts.to(totals)
    all_counts = ranks.total(all_counts)
    filled = all_counts >= least
    means = torch.where(filled[:slots], totals / torch.where(filled[:slots], all_counts[:slots], 1), 0)
    return ranks.size * means.sum() / filled.sum().clamp(min=1)
