"""Ragged sets in padded form: n rows, each of one group, as a rectangle with a line for each group."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def index_in_group(group: Int[Tensor, " n"], groups: int) -> Int[Tensor, " n"]:
    """The place of each row among those of its group, counted from 0 in the order in which they stand."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=groups)
    first = sizes.cumsum(0) - sizes
    ranked = torch.arange(len(group), device=group.device) - first[group[order]]
    return torch.empty_like(ranked).index_copy_(0, order, ranked)


def spread(
    rows: Shaped[Tensor, " n *D"], group: Int[Tensor, " n"], groups: int, empty: float = 0.0
) -> Shaped[Tensor, " groups W *D"]:
    """A line for each group with its rows in order, ``empty`` where it has fewer than the longest; W is at least 1."""
    place = index_in_group(group, groups)
    width = 1 + int(place.max()) if len(place) else 1
    lines = rows.new_full((groups, width, *rows.shape[1:]), empty)
    return lines.index_put((group, place), rows)
