"""Ragged sets in padded form: n rows, each of one group, as a rectangle with one line per group."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def index_in_group(group: Int[Tensor, " n"], groups: int) -> Int[Tensor, " n"]:
    """The position of each row among the rows of its group, from 0, in order."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=groups)
    first = sizes.cumsum(0) - sizes
    ranked = torch.arange(len(group), device=group.device) - first[group[order]]
    return torch.empty_like(ranked).index_copy_(0, order, ranked)


def pad_groups(
    rows: Shaped[Tensor, " n *D"], group: Int[Tensor, " n"], groups: int, empty: float = 0.0
) -> Shaped[Tensor, " groups W *D"]:
    """One line per group with its rows in order, padded with ``empty`` to the longest group; W is at least 1."""
    position = index_in_group(group, groups)
    width = 1 + int(position.max()) if len(position) else 1
    lines = rows.new_full((groups, width, *rows.shape[1:]), empty)
    return lines.index_put((group, position), rows)
