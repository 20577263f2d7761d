"""The only file that knows ranks: collectives on blocks of rows whose number differs from rank to rank.

A contrastive loss compares rows of this rank with rows of all ranks. ``ProcessGroup`` moves the rows: it gathers them
all, sums their gradients back to their owners and reduces statistics. Autograd sees none of it: the losses call it from
their own forward and backward passes. Without ``torch.distributed``, or among one rank, every call returns its input.

Reduce-scatter is an all-reduce and a slice where the backend has nothing better (gloo).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor


class ProcessGroup(NamedTuple):
    """The processes whose rows meet: this one's index among ``size`` of them."""

    index: int = 0  # pyright: ignore[reportIncompatibleMethodOverride] a field, no tuple.index
    size: int = 1

    @classmethod
    def everyone(cls) -> ProcessGroup:
        """All processes of the default group; this one alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def counts(self, rows: int, device: torch.device) -> list[int]:
        """The number of rows of each rank. Waits for the device."""
        if self.size == 1:
            return [rows]
        mine = torch.tensor([rows], device=device)
        everyones = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyones, mine)
        return torch.cat(everyones).tolist()

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
        """The sum over ranks of the rows that are this rank's: the way back of `gather`."""
        if self.size == 1:
            return rows
        if f"{rows.device.type}:gloo" in dist.get_backend_config():
            return self.mine(self.total(rows), counts)
        blocks = rows.new_zeros(self.size, max(counts), *rows.shape[1:])
        for block, part in zip(blocks, rows.split(counts), strict=True):
            block[: len(part)] = part
        padded = torch.empty_like(blocks[0])
        dist.reduce_scatter_tensor(padded, blocks.flatten(0, 1))
        return padded[: counts[self.index]]

    def mine(self, rows: Shaped[Tensor, " N *D"], counts: list[int]) -> Shaped[Tensor, " n *D"]:
        """The rows that are this rank's among those of all ranks."""
        return rows.split(counts)[self.index]

    def total(self, x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """The sum over ranks of a tensor of equal shape on each; ``x`` itself may be overwritten."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def maximum(self, x: Num[Tensor, " ..."]) -> Num[Tensor, " ..."]:
        """The largest over ranks, element by element, of a tensor of equal shape on each."""
        if self.size == 1:
            return x
        largest = x.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest


def shared_mean(total: Float[Tensor, ""], count: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """``ranks * total / (count summed over ranks)``; 0, still attached to the graph, where nothing was counted.

    DDP and FSDP average gradients over ranks; so scaled, that average is the gradient of the mean over all ranks'
    rows, however unevenly those are spread. The value's mean over ranks is likewise the loss of the whole batch.
    """
    ranks = ProcessGroup.everyone()
    counted = ranks.total(count.detach().clone())
    return total * (ranks.size / torch.where(counted > 0, counted, 1))


def shared_means(totals: Float[Tensor, " M"], counts: Int[Tensor, " M"], least: int) -> Float[Tensor, ""]:
    """The mean over M slots of each slot's mean over all ranks' rows, scaled as `shared_mean` does.

    Slots that fewer than ``least`` rows of all ranks fill are left out; 0, still attached to the graph, where all are.
    M may differ from rank to rank: slots that a rank lacks are empty there.
    """
    ranks = ProcessGroup.everyone()
    most = int(ranks.maximum(torch.tensor(len(counts), device=counts.device))) if ranks.size > 1 else len(counts)
    everyones = totals.new_zeros(most)
    everyones[: len(counts)] = counts.to(totals)
    everyones = ranks.total(everyones)
    filled = everyones >= least
    mine = slice(0, len(counts))
    means = torch.where(filled[mine], totals / torch.where(filled[mine], everyones[mine], 1), 0)
    return ranks.size * means.sum() / filled.sum().clamp(min=1)
