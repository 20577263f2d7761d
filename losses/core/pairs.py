"""Tiling and masking for the contrastive engine: which (row, column) pairs are negatives.

The rows of this rank are compared with the columns of all ranks in tiles. Three labels of each row and column decide
whether a pair counts: the *block* (its image), the *part* of the batch (rows are only compared with columns of their
part) and the *ids* (a text's hash, a phrase's lemma). Pairs of one block and pairs with a common id are left out of the
tiles. The former are few, and the losses treat them as small dense matrices; the latter are not negatives.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from losses.core.host_copies import on_device, on_host
from losses.core.process_group import ProcessGroup

Negatives = Literal["all", "rank"] | int
"""Where negatives come from: all ranks, this rank, or blocks of so many consecutive images of this rank."""

# The longest side of a tile of logits. Small enough for a CPU's last-level cache, large enough that synchronising the
# cores after each operation costs little.
TILE = {"cpu": 2048}
LARGE_TILE = 4096


def check_negatives(negatives: Negatives) -> None:
    """Raises ValueError where ``negatives`` is not "all", "rank" or a positive number of images."""
    if negatives not in ("all", "rank") and (isinstance(negatives, (str, bool)) or negatives < 1):
        raise ValueError(f'negatives must be "all", "rank" or a positive number of images, got {negatives!r}')


class Labels(NamedTuple):
    """Labels of n rows (or columns) of this rank, sorted by part. What decides about tiles is known on the host."""

    block: Int[np.ndarray, " n"]  # the rank, times 2^32, and the number of the block on that rank
    device_block: Int[Tensor, " n"]  # the same
    part: Int[np.ndarray, " n"] | None  # equal numbers are the same part on all ranks of the contrast; None: one part
    ids: Int[Tensor, "n R"] | None  # a row with fewer than R ids repeats one


class Tile(NamedTuple):
    """A rectangle of pairs; ``near`` is True if some of them may belong to one block."""

    rows: slice
    cols: slice
    near: bool


class NegativePairs:
    """The pairs of this rank's rows with the columns of all ranks of the contrast, tile by tile.

    ``tiles`` together hold each pair of equal part once.
    """

    def __init__(self, rows: Labels, cols: Labels, ranks: ProcessGroup) -> None:
        device = cols.device_block.device
        self.ranks = ranks
        self.counts = ranks.counts(len(cols.block), device)
        self.order = None
        col_block = _on_all_ranks(cols.block, self.counts, ranks)
        spans = [(slice(0, len(rows.block)), slice(0, sum(self.counts)))]
        if rows.part is not None and cols.part is not None:
            part = cols.part
            if ranks.size > 1:
                part = on_host(ranks.gather(on_device(part, device), self.counts))
            order = part.argsort(kind="stable")
            self.order, col_block = on_device(order, device), col_block[order]
            spans = _spans(rows.part, part)
        self.row_block, self.col_block = rows.device_block, self.collect(cols.device_block)
        self.row_ids = rows.ids
        self.col_ids = None if cols.ids is None else self.collect(cols.ids)
        self.tiles = _tiles(rows.block, col_block, spans, TILE.get(device.type, LARGE_TILE))

    def collect(self, cols: Shaped[Tensor, " n *D"]) -> Shaped[Tensor, " N *D"]:
        """The columns of all ranks of the contrast, sorted by part."""
        gathered = self.ranks.gather(cols, self.counts)
        return gathered if self.order is None else gathered[self.order]

    def local(self, cols: Shaped[Tensor, " N *D"]) -> Shaped[Tensor, " n *D"]:
        """This rank's columns among all."""
        return self.ranks.local(self._by_rank(cols), self.counts)

    def scatter_sum(self, cols: Shaped[Tensor, " N *D"]) -> Shaped[Tensor, " n *D"]:
        """This rank's columns of the sum over ranks; ``cols`` may be overwritten."""
        return self.ranks.scatter_sum(self._by_rank(cols), self.counts)

    def left_out(self, tile: Tile) -> Bool[Tensor, "r c"] | None:
        """The pairs of a tile that share their block or an id; None where none can."""
        rows, cols = tile.rows, tile.cols
        out = self.row_block[rows, None] == self.col_block[cols] if tile.near else None
        if self.row_ids is not None and self.col_ids is not None:
            for row_id, col_id in product(self.row_ids[rows].unbind(1), self.col_ids[cols].unbind(1)):
                same = row_id.contiguous()[:, None] == col_id.contiguous()
                out = same if out is None else out.logical_or_(same)
        return out

    def _by_rank(self, cols: Shaped[Tensor, " N *D"]) -> Shaped[Tensor, " N *D"]:
        return cols if self.order is None else torch.empty_like(cols).index_copy_(0, self.order, cols)


def _on_all_ranks(block: Int[np.ndarray, " n"], counts: list[int], ranks: ProcessGroup) -> Int[np.ndarray, " N"]:
    """The blocks of all ranks' columns; of another rank's columns only the rank is known, which is enough: they are in
    no block of this rank.
    """
    blocks = np.repeat(np.arange(ranks.size) << 32, counts)
    first = sum(counts[: ranks.index])
    blocks[first : first + len(block)] = block
    return blocks


def _tiles(
    row_block: Int[np.ndarray, " n"], col_block: Int[np.ndarray, " N"], spans: list[tuple[slice, slice]], side: int
) -> list[Tile]:
    cuts = [(r, c) for rows, cols in spans for r, c in product(_cut(rows, side), _cut(cols, side))]
    # Within a part both sides are sorted by block, so a tile's first and last blocks show whether any can be equal.
    first_row, last_row = _ends(row_block, [rows for rows, _ in cuts])
    first_col, last_col = _ends(col_block, [cols for _, cols in cuts])
    near = (first_row <= last_col) & (first_col <= last_row)
    return [Tile(*cut, near=flag) for cut, flag in zip(cuts, near.tolist(), strict=True)]


def _spans(row_part: Int[np.ndarray, " n"], col_part: Int[np.ndarray, " N"]) -> list[tuple[slice, slice]]:
    """The rows and the columns of each part; both sides are sorted by part."""
    parts = 1 + max(int(part.max()) if len(part) else -1 for part in (row_part, col_part))
    sizes = [np.bincount(part, minlength=parts).tolist() for part in (row_part, col_part)]
    spans, row, col = [], 0, 0
    for rows, cols in zip(*sizes, strict=True):
        spans.append((slice(row, row + rows), slice(col, col + cols)))
        row, col = row + rows, col + cols
    return spans


def _cut(span: slice, side: int) -> list[slice]:
    """The span in pieces of nearly equal length, at most ``side`` each; no piece of an empty span."""
    length = span.stop - span.start
    pieces = -(-length // side)
    edges = [span.start + length * i // pieces for i in range(pieces + 1)] if pieces else []
    return [slice(a, b) for a, b in pairwise(edges)]


def _ends(blocks: Int[np.ndarray, " n"], spans: list[slice]) -> tuple[Int[np.ndarray, " s"], Int[np.ndarray, " s"]]:
    """The first and the last block of each span."""
    starts = np.array([span.start for span in spans], dtype=np.int64)
    stops = np.array([span.stop for span in spans], dtype=np.int64)
    return blocks[starts], blocks[stops - 1]
