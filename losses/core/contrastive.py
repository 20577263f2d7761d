"""The loss engine: exact contrastive losses over all ranks in O(N D) memory.

Every contrastive loss here is *similarity x positive pairs x objective*. There are two kinds of pairs. Pairs within a
block (the texts and the pooled vectors, or the regions and the lexemes, of one image) carry all the structure: targets,
weights, links, masks. They are few, so the engine returns their logits as a batched [B, K, Q] matrix, and each loss
processes them in plain PyTorch as its paper says. Pairs of different blocks are many, and all are negatives. The engine
streams them in tiles, never stores them, and returns what the objective needs:

- softmax: the log-partition of each row and column (`log_partition`). Online maximum and sum, in both directions from
  the same tile; backward recomputes the tile: G = e^(z - row) g_row + e^(z - col) g_col, dU = G V, dV = G^T U.
- sigmoid: the weighted sum of softplus (`softplus_sum`). It needs no normaliser, so value and gradients come from one
  pass, in forward; backward only scales them.

The rows are multiplied by the scale first, so that autograd computes its gradient. All arithmetic is in float32
(float64 for float64 inputs), under autocast too; on a GPU `torch.set_float32_matmul_precision("high")` is faster, with
TF32 logits. torch.compile skips the engine. Tiling idea: Inf-CL (arXiv 2410.17243); there each direction recomputes the
tiles, and targets are hard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.core.host_copies import derived, on_device, on_host
from losses.core.pairs import Labels, NegativePairs, Negatives, Tile
from losses.core.process_group import ProcessGroup

Scalar = Float[Tensor, " ..."] | float
"""A number, or a tensor with one element (a parameter of shape [1], say, which FSDP can shard)."""

Call = TypeVar("Call", bound=Callable[..., Any])


def _not_compiled(fn: Call) -> Call:
    return cast(Call, torch.compiler.disable(fn))  # its return type loses the signature


class ContrastSide(NamedTuple):
    """One side of a contrast: K vectors for each of B blocks (images). The contents of padded slots have no effect."""

    vectors: Float[Tensor, "B K D"]  # unit norm
    valid: Bool[Tensor, "B K"]
    ids: Int[Tensor, "B K R"] | None = None  # pairs of different blocks with a common id are not negatives


def images_and_texts(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B K D"],
    valid: Bool[Tensor, "B K"],
    text_id: Int[Tensor, "B K"] | None,
) -> tuple[ContrastSide, ContrastSide]:
    """Both sides of a contrast of images and their K texts; an image without a text is left out.

    Given ``text_id``, an image has the ids of its valid texts: a text of the same id is not its negative.
    """
    images, texts = ContrastSide(image[:, None], derived(_any_slot, valid)), ContrastSide(text, valid)
    if text_id is None:
        return images, texts
    first = text_id.gather(1, valid.int().argmax(1, keepdim=True))
    ids = torch.where(valid, text_id, first)
    return images._replace(ids=ids[:, None]), texts._replace(ids=text_id[..., None])


def _any_slot(valid: Bool[Tensor, "B K"]) -> Bool[Tensor, "B 1"]:
    return valid.any(1, keepdim=True)


class Logits(NamedTuple):
    """Scaled similarities within blocks (0 where either side is padded), and the log-partitions over all columns or
    rows (0 where padded)."""

    within: Float[Tensor, "B K Q"]
    row_partition: Float[Tensor, "B K"]
    col_partition: Float[Tensor, "B Q"]


class Softplus(NamedTuple):
    """Logits within blocks (0 where either side is padded), and over all other pairs of this rank's rows the sum of
    weight x softplus(logit) and the sum of weights."""

    within: Float[Tensor, "B K Q"]
    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]


@_not_compiled
def log_partition(
    rows: ContrastSide,
    cols: ContrastSide,
    scale: Scalar,
    keep: Bool[Tensor, "B K Q"] | None = None,
    part: Int[np.ndarray, " B"] | Int[Tensor, " B"] | None = None,
    negatives: Negatives = "all",
) -> Logits:
    """Softmax denominators in both directions, exact over all ranks.

    Args:
        rows, cols: the two sides, in the same blocks; K, Q and the number of valid slots may differ between ranks.
        scale: factor of the similarities.
        keep: True for pairs within a block that count in the denominators; all by default.
        part: blocks are only contrasted with blocks of equal part (the same sentence slot, say).
        negatives: where the other blocks come from: "all" ranks, this "rank", or groups of so many blocks of this rank.
    """
    with _full_precision(rows.vectors):
        row, col, within = _prepare(rows, cols, scale)
        row_index, col_index, pairs = _pair_up(rows, cols, part, negatives)
        row_lse, col_lse = _LogSumExp.apply(
            row.flatten(0, 1).index_select(0, row_index), col.flatten(0, 1).index_select(0, col_index), pairs
        )
        valid = rows.valid[:, :, None] & cols.valid[:, None, :]
        # The lowest number, not -inf: the gradient of a fully masked line is 0, not NaN.
        masked = within.masked_fill(~(valid if keep is None else valid & keep), torch.finfo(within.dtype).min)
        partitions = []
        for index, negative_lse, dim in ((row_index, row_lse, 2), (col_index, col_lse, 1)):
            within_lse = masked.logsumexp(dim)
            lse = torch.logaddexp(negative_lse, within_lse.flatten()[index])
            partitions.append(torch.zeros_like(within_lse).flatten().index_copy(0, index, lse).view_as(within_lse))
        return Logits(within, *partitions)


@_not_compiled
def softplus_sum(
    rows: ContrastSide,
    cols: ContrastSide,
    scale: Scalar,
    bias: Scalar = 0.0,
    weight: tuple[Float[Tensor, "B K"], Float[Tensor, "B Q"]] | None = None,
    part: Int[np.ndarray, " B"] | Int[Tensor, " B"] | None = None,
    negatives: Negatives = "all",
) -> Softplus:
    """The sigmoid loss of all negatives, exact over all ranks: a pair's logit is ``scale * similarity + bias``.

    The weight of a pair is the mean of its row's and its column's ``weight`` (1 by default; without gradient). The
    gradient of ``total`` must be the same on all ranks, as it is with `losses.core.process_group.shared_mean`. Other
    arguments as in `log_partition`.
    """
    with _full_precision(rows.vectors):
        row, col, within = _prepare(rows, cols, scale)
        row_index, col_index, pairs = _pair_up(rows, cols, part, negatives)
        if not isinstance(bias, Tensor):
            bias = within.new_full((), bias)
        bias = bias.to(within.dtype).reshape(())
        row_weight, col_weight = (
            within.new_full(index.shape, 0.5) if weight is None else weight[side].flatten()[index].to(within.dtype) / 2
            for side, index in enumerate((row_index, col_index))
        )
        u, v = row.flatten(0, 1).index_select(0, row_index), col.flatten(0, 1).index_select(0, col_index)
        total, mass = _SoftplusSum.apply(u, v, bias, (row_weight, col_weight), pairs, torch.is_grad_enabled())
        valid = rows.valid[:, :, None] & cols.valid[:, None, :]
        return Softplus(torch.where(valid, within + bias, 0), total, mass)


def _prepare(rows: ContrastSide, cols: ContrastSide, scale: Scalar) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides in full precision with zeros where padded, the rows scaled; and the logits within blocks."""
    dtype = torch.promote_types(torch.promote_types(rows.vectors.dtype, cols.vectors.dtype), torch.float32)
    row, col = (torch.where(side.valid[..., None], side.vectors, 0).to(dtype) for side in (rows, cols))
    row = row * scale
    return row, col, row @ col.mT


def _pair_up(
    rows: ContrastSide,
    cols: ContrastSide,
    part: Int[np.ndarray, " B"] | Int[Tensor, " B"] | None,
    negatives: Negatives,
) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"], NegativePairs]:
    """Indices of the valid slots of both sides, sorted by part, and the tiles of their pairs.

    All of it is worked out on the host, which knows the masks of a batch before the device does.
    """
    if (rows.ids is None) != (cols.ids is None):
        raise ValueError("rows and cols must both have ids, or neither")
    ranks = ProcessGroup.world() if negatives == "all" else ProcessGroup()
    if part is not None:
        part = on_host(part)
    if isinstance(negatives, int):
        group = np.arange(len(rows.valid)) // negatives
        part = group if part is None else part * len(rows.valid) + group
    row_index, row_labels = _labelled(rows, part, ranks)
    if cols.valid is rows.valid and cols.ids is rows.ids:
        return row_index, row_index, NegativePairs(row_labels, row_labels, ranks)
    col_index, col_labels = _labelled(cols, part, ranks)
    return row_index, col_index, NegativePairs(row_labels, col_labels, ranks)


def _labelled(
    side: ContrastSide, part: Int[np.ndarray, " B"] | None, ranks: ProcessGroup
) -> tuple[Int[Tensor, " n"], Labels]:
    """Indices of a side's valid slots, sorted by part, and their labels."""
    valid = on_host(side.valid)
    index = np.flatnonzero(valid)
    block = index // max(valid.shape[1], 1)
    if part is not None:
        order = part[block].argsort(kind="stable")
        index, block = index[order], block[order]
    host_block = block + (ranks.index << 32)
    slots, device_block = on_device(np.stack([index, host_block]), side.valid.device)
    ids = None if side.ids is None else side.ids.flatten(0, 1)[slots]
    return slots, Labels(host_block, device_block, None if part is None else part[block], ids)


class _LogSumExp(torch.autograd.Function):
    """log-sum-exp over the pairs of each row and of each of this rank's columns; -inf where there is no pair.

    It computes in base 2: on a CPU exp becomes many times slower where it underflows, exp2 does not.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cols: Tensor, pairs: NegativePairs) -> tuple[Tensor, Tensor]:
        rows, all_cols = rows / math.log(2), pairs.collect(cols)
        row_peak, row_sum = _empty_sum(rows)
        col_peak, col_sum = _empty_sum(all_cols)
        for tile in pairs.tiles:
            z = _logits(rows, all_cols, pairs, tile)
            _accumulate(z, row_peak[tile.rows], row_sum[tile.rows], 1)
            _accumulate(z, col_peak[tile.cols], col_sum[tile.cols], 0)
            del z  # before the next tile is made
        peak = pairs.ranks.maximum(col_peak)
        col_sum = pairs.ranks.total(col_sum * (col_peak - peak).exp2())
        row_lse, col_lse = row_peak + row_sum.log2(), peak + col_sum.log2()
        # Without pairs, any finite number serves in backward: 2^(-inf - number) is 0.
        ctx.save_for_backward(rows, all_cols, *(lse.masked_fill(lse.isinf(), 0) for lse in (row_lse, col_lse)))
        ctx.pairs = pairs
        return row_lse * math.log(2), pairs.local(col_lse) * math.log(2)

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
        return d_rows, pairs.scatter_sum(d_cols.mul_(math.log(2))), None


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
        all_cols, row_weight, col_weight = pairs.collect(cols), weights[0], pairs.collect(weights[1])
        total, mass, d_bias = (rows.new_zeros(()) for _ in range(3))
        d_rows, d_cols = torch.zeros_like(rows), torch.zeros_like(all_cols)
        for tile in pairs.tiles:
            r, c, _ = tile
            z = torch.addmm(bias, rows[r], all_cols[c].T)
            weight = row_weight[r, None] + col_weight[c]
            if (left_out := pairs.left_out(tile)) is not None:
                weight.masked_fill_(left_out, 0)
            mass += weight.sum()
            total += torch.logaddexp(z, z.new_zeros(())).mul_(weight).sum()
            if grads:
                g = z.sigmoid_().mul_(weight)
                if ctx.needs_input_grad[2]:
                    d_bias += g.sum()
                d_rows[r].addmm_(g, all_cols[c])
                d_cols[c].addmm_(g.T, rows[r])
                del g
            del z, weight, left_out  # before the next tile is made
        if grads:
            ctx.save_for_backward(d_rows, pairs.scatter_sum(d_cols), d_bias)
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


def _empty_sum(rows: Float[Tensor, "n D"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The running maximum and sum of exponentials before any logit."""
    return rows.new_full(rows.shape[:1], torch.finfo(rows.dtype).min), rows.new_zeros(rows.shape[:1])


def _accumulate(z: Float[Tensor, "r c"], peak: Tensor, total: Tensor, dim: int) -> None:
    """Add a tile to the running maximum and sum of exponentials, in place."""
    higher = torch.maximum(peak, z.amax(dim))
    total.mul_((peak - higher).exp2_()).add_((z - higher.unsqueeze(dim)).exp2_().sum(dim))
    peak.copy_(higher)


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
