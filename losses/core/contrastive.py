"""The loss engine: exact contrastive losses over all ranks in O(N D) memory.

Every contrastive loss here is *similarity x which pairs are positive x objective*. Its pairs fall into two kinds.
Pairs within a block (the texts and the pooled vectors, or the regions and the lexemes, of one image) carry all the
structure: targets, weights, links, masks. They are few, so the engine hands their logits out as a batched [B, K, Q]
matrix, and a loss does with them, in plain PyTorch, whatever its paper says. Pairs of different blocks are many and
all alike: negatives. The engine streams them in tiles, never stores them, and gives back what the objective needs:

- softmax: the log-partition of each row and column (`log_partition`). Online maximum and sum, in both directions from
  the same tile; backward recomputes the tile: G = e^(z - row) g_row + e^(z - col) g_col, dU = G V, dV = G^T U.
- sigmoid: the weighted sum of softplus (`softplus_sum`). It needs no normaliser, so value and gradients come from one
  pass, in forward; backward only scales them.

The scale is multiplied into the rows before, so that its gradient is autograd's. All arithmetic is in float32
(float64 for float64 inputs), under autocast too; on a GPU `torch.set_float32_matmul_precision("high")` makes it faster
at the price of TF32 logits. The engine stays out of torch.compile. Tiling idea: Inf-CL (arXiv 2410.17243); there each
direction recomputes the tile by itself, and targets are hard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.core.pairs import Labels, NegativePairs, Negatives, Tile
from losses.core.process_group import ProcessGroup

Scalar = Float[Tensor, " ..."] | float
"""A number, or a tensor with one element (a parameter of shape [1], say, which FSDP can shard)."""

Call = TypeVar("Call", bound=Callable[..., Any])


def _not_compiled(fn: Call) -> Call:
    return cast(Call, torch.compiler.disable(fn))  # whose own type forgets the signature


class ContrastSide(NamedTuple):
    """One side of a contrast: K vectors for each of B blocks (images). What a padded slot holds has no effect."""

    vectors: Float[Tensor, "B K D"]  # unit norm
    valid: Bool[Tensor, "B K"]
    ids: Int[Tensor, "B K R"] | None = None  # pairs of different blocks with an id in common are no negatives


class Logits(NamedTuple):
    """Scaled similarities within blocks (0 where either side is padded), and the log-partitions over all columns or
    rows (0 where padded)."""

    own: Float[Tensor, "B K Q"]
    row_partition: Float[Tensor, "B K"]
    col_partition: Float[Tensor, "B Q"]


class Softplus(NamedTuple):
    """Logits within blocks (0 where either side is padded), and of all other pairs with this rank's rows the sum of
    weight x softplus(logit) and the sum of weight."""

    own: Float[Tensor, "B K Q"]
    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]


@_not_compiled
def log_partition(
    rows: ContrastSide,
    cols: ContrastSide,
    scale: Scalar,
    keep: Bool[Tensor, "B K Q"] | None = None,
    part: Int[Tensor, " B"] | None = None,
    negatives: Negatives = "all",
) -> Logits:
    """Softmax denominators in both directions, exact over all ranks.

    Args:
        rows, cols: the two sides, in the same blocks; K, Q and the number of valid slots may differ between ranks.
        scale: what multiplies the similarities.
        keep: the pairs within a block that count in the denominators; all by default.
        part: blocks are only contrasted with blocks of equal part (say, the same sentence slot).
        negatives: where the other blocks come from: "all" ranks, this "rank", or groups of so many blocks of this rank.
    """
    with _full_precision(rows.vectors):
        row, col, own = _prepare(rows, cols, scale)
        row_index, col_index, pairs = _pair_up(rows, cols, part, negatives)
        others = _LogSumExp.apply(
            row.flatten(0, 1).index_select(0, row_index), col.flatten(0, 1).index_select(0, col_index), pairs
        )
        counted = rows.valid[:, :, None] & cols.valid[:, None, :]
        # The lowest number, not -inf: the gradient of a fully masked line is 0, not NaN.
        masked = own.masked_fill(~(counted if keep is None else counted & keep), torch.finfo(own.dtype).min)
        partitions = []
        for index, other, dim in ((row_index, others[0], 2), (col_index, others[1], 1)):
            within = masked.logsumexp(dim)
            both = torch.logaddexp(other, within.flatten()[index])
            partitions.append(torch.zeros_like(within).flatten().index_copy(0, index, both).view_as(within))
        return Logits(own, *partitions)


@_not_compiled
def softplus_sum(
    rows: ContrastSide,
    cols: ContrastSide,
    scale: Scalar,
    bias: Scalar = 0.0,
    weight: tuple[Float[Tensor, "B K"], Float[Tensor, "B Q"]] | None = None,
    part: Int[Tensor, " B"] | None = None,
    negatives: Negatives = "all",
) -> Softplus:
    """The sigmoid loss of all negatives, exact over all ranks: a pair's logit is ``scale * similarity + bias``.

    A pair weighs the mean of its row's and its column's ``weight`` (1 by default; constants, no gradient). The gradient
    that reaches ``total`` must be the same on all ranks, as it is behind `losses.core.process_group.shared_mean`.
    Other arguments as in `log_partition`.
    """
    with _full_precision(rows.vectors):
        row, col, own = _prepare(rows, cols, scale)
        row_index, col_index, pairs = _pair_up(rows, cols, part, negatives)
        bias = torch.as_tensor(bias, dtype=own.dtype, device=own.device).reshape(())
        row_weight, col_weight = (
            own.new_full(index.shape, 0.5) if weight is None else weight[side].flatten()[index].to(own.dtype) / 2
            for side, index in enumerate((row_index, col_index))
        )
        u, v = row.flatten(0, 1).index_select(0, row_index), col.flatten(0, 1).index_select(0, col_index)
        total, mass = _SoftplusSum.apply(u, v, bias, (row_weight, col_weight), pairs, torch.is_grad_enabled())
        counted = rows.valid[:, :, None] & cols.valid[:, None, :]
        return Softplus(torch.where(counted, own + bias, 0), total, mass)


def _prepare(rows: ContrastSide, cols: ContrastSide, scale: Scalar) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides in full precision with zeros where padded, the rows scaled; and the logits within blocks."""
    dtype = torch.promote_types(torch.promote_types(rows.vectors.dtype, cols.vectors.dtype), torch.float32)
    row, col = (torch.where(side.valid[..., None], side.vectors, 0).to(dtype) for side in (rows, cols))
    row = row * scale
    return row, col, row @ col.mT


def _pair_up(
    rows: ContrastSide, cols: ContrastSide, part: Int[Tensor, " B"] | None, negatives: Negatives
) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"], NegativePairs]:
    """Indices of the valid slots of both sides, sorted by part, and how they meet."""
    if (rows.ids is None) != (cols.ids is None):
        raise ValueError("rows and cols must both have ids, or neither")
    ranks = ProcessGroup.everyone() if negatives == "all" else ProcessGroup()
    if isinstance(negatives, int):
        group = torch.arange(len(rows.valid), device=rows.valid.device) // negatives
        part = group if part is None else part * len(rows.valid) + group
    indices, labels = [], []
    for side in (rows, cols):
        index = side.valid.flatten().nonzero().squeeze(1)
        block = index // max(side.valid.shape[1], 1)
        if part is not None:
            order = part[block].argsort(stable=True)
            index, block = index[order], block[order]
        ids = None if side.ids is None else side.ids.flatten(0, 1)[index]
        indices.append(index)
        labels.append(Labels(block, None if part is None else part[block], ids))
    return indices[0], indices[1], NegativePairs(labels[0], labels[1], ranks)


class _LogSumExp(torch.autograd.Function):
    """log-sum-exp over the pairs of each row and of each of this rank's columns; -inf where there is no pair.

    In base 2 inside: exp2 does not slow down where it underflows, as exp does on a CPU, many times over.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor, pairs: NegativePairs) -> tuple[Tensor, Tensor]:
        rows, everyones = rows / math.log(2), pairs.collect(cols)
        row_peak, row_sum = _nothing_yet(rows)
        col_peak, col_sum = _nothing_yet(everyones)
        for tile in pairs.tiles:
            z = _logits(rows, everyones, pairs, tile)
            _absorb(z, row_peak[tile.rows], row_sum[tile.rows], 1)
            _absorb(z, col_peak[tile.cols], col_sum[tile.cols], 0)
            del z  # before the next tile is made
        peak = pairs.ranks.maximum(col_peak)
        col_sum = pairs.ranks.total(col_sum * (col_peak - peak).exp2())
        row_lse, col_lse = row_peak + row_sum.log2(), peak + col_sum.log2()
        # Where there is no pair any finite number will do for backward: 2^(-inf - number) is 0.
        ctx.save_for_backward(rows, everyones, *(lse.masked_fill(lse.isinf(), 0) for lse in (row_lse, col_lse)))
        ctx.pairs = pairs
        return row_lse * math.log(2), pairs.own(col_lse) * math.log(2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, row_grad: Tensor, col_grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        rows, cols, row_lse, col_lse = ctx.saved_tensors
        pairs: NegativePairs = ctx.pairs
        col_grad = pairs.collect(col_grad)
        d_rows, d_cols = torch.zeros_like(rows), torch.zeros_like(cols)
        with _full_precision(rows):
            for tile in pairs.tiles:
                r, c, _ = tile
                z = _logits(rows, cols, pairs, tile)
                g = (z - row_lse[r, None]).exp2_().mul_(row_grad[r, None])
                g.addcmul_(z.sub_(col_lse[c]).exp2_(), col_grad[c])
                d_rows[r].addmm_(g, cols[c])
                d_cols[c].addmm_(g.T, rows[r])
                del z, g  # before the next tile is made
        return d_rows, pairs.give_back(d_cols.mul_(math.log(2))), None


class _SoftplusSum(torch.autograd.Function):
    """Sum over pairs of (row weight + column weight) softplus(z + bias), and of the weights alone."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        cols: Tensor,
        bias: Tensor,
        weights: tuple[Tensor, Tensor],
        pairs: NegativePairs,
        grads: bool,
    ) -> tuple[Tensor, Tensor]:
        everyones, row_weight, col_weight = pairs.collect(cols), weights[0], pairs.collect(weights[1])
        total, mass, d_bias = (rows.new_zeros(()) for _ in range(3))
        d_rows, d_cols = torch.zeros_like(rows), torch.zeros_like(everyones)
        for tile in pairs.tiles:
            r, c, _ = tile
            z = torch.addmm(bias, rows[r], everyones[c].T)
            weight = row_weight[r, None] + col_weight[c]
            if (left_out := pairs.left_out(tile)) is not None:
                weight.masked_fill_(left_out, 0)
            mass += weight.sum()
            total += torch.logaddexp(z, z.new_zeros(())).mul_(weight).sum()
            if grads:
                g = z.sigmoid_().mul_(weight)
                if ctx.needs_input_grad[2]:
                    d_bias += g.sum()
                d_rows[r].addmm_(g, everyones[c])
                d_cols[c].addmm_(g.T, rows[r])
                del g
            del z, weight, left_out  # before the next tile is made
        if grads:
            ctx.save_for_backward(d_rows, pairs.give_back(d_cols), d_bias)
        ctx.mark_non_differentiable(mass)
        return total, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (*(grad * d for d in ctx.saved_tensors), None, None, None)


def _logits(rows: Tensor, cols: Tensor, pairs: NegativePairs, tile: Tile) -> Float[Tensor, "r c"]:
    """Logits of a tile, -inf where a pair is left out."""
    z = rows[tile.rows] @ cols[tile.cols].T
    left_out = pairs.left_out(tile)
    return z if left_out is None else z.masked_fill_(left_out, -torch.inf)


def _nothing_yet(rows: Float[Tensor, "n D"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The running maximum and sum of exponentials of no logit."""
    return rows.new_full(rows.shape[:1], torch.finfo(rows.dtype).min), rows.new_zeros(rows.shape[:1])


def _absorb(z: Float[Tensor, "r c"], peak: Tensor, total: Tensor, dim: int) -> None:
    """Adds a tile to the running maximum and sum of exponentials, in place."""
    higher = torch.maximum(peak, z.amax(dim))
    total.mul_((peak - higher).exp2_()).add_((z - higher.unsqueeze(dim)).exp2_().sum(dim))
    peak.copy_(higher)


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
