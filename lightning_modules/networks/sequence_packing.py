"""Several texts in one row: the text tower reads real tokens only.

A caption has some 140 tokens, a phrase four or five. Padded to a common length most of the work is on padding; packed,
texts stand behind one another in rows, each seeing only itself (a block-diagonal causal mask) and counting its
positions from zero. For a causal transformer that gives exactly the features of one text at a time.

Placing texts is bin packing: longest first, each into the row with the least room that still holds it (best fit
decreasing). Mixed lengths leave 1 to 2 % of the places empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from losses.core.host_copies import on_device

SHORT_ROW = 64  # short texts share rows of at least this length: few empty places, and attention is still cheap
ALIGN = 8  # fused attention kernels want masks whose rows are multiples of 8


class Packing(NamedTuple):
    """Rows of tokens; token ``t`` of the ragged set stands at ``slot[t]`` of the flattened rows."""

    tokens: Int[Tensor, "N L"]
    positions: Int[Tensor, "N L"]
    mask: Bool[Tensor, "N 1 L L"]  # True where a query may look; every query may look at itself
    slot: Int[Tensor, " T"]


def fit_rows(lengths: Sequence[int], row_length: int) -> tuple[list[int], list[int]]:
    """A row for each text and the place in that row where it starts.

    Args:
        lengths: of the texts, each at most ``row_length``.
        row_length: places in a row.
    """
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by places left
    rooms = 0  # bit r is set where some row has r places left: finding the tightest row is one bit operation
    count = 0
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        length = lengths[text]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row, count = row_length, count, count + 1
        rows[text], starts[text] = row, row_length - room
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return rows, starts


def row_length(lengths: Sequence[int], limit: int, allowed: Sequence[int] = ()) -> int:
    """Places in a row, a multiple of 8: the longest text, or a little more where all are short; never more than
    ``limit`` and what makes it such a multiple.

    With ``allowed`` lengths, in ascending order, the first of these that is long enough, else ``limit``.
    """
    most = _aligned(limit)
    needed = max(*lengths, min(SHORT_ROW, sum(lengths)), 1)
    return min(next((length for length in allowed if length >= needed), most) if allowed else _aligned(needed), most)


def _aligned(length: int) -> int:
    return -(-length // ALIGN) * ALIGN


def empty_share(lengths: Sequence[int], limit: int) -> float:
    """The share of the places in the rows that stays empty when texts of these lengths are packed; 0 without texts."""
    if not lengths:
        return 0.0
    length = row_length(lengths, limit)
    return 1 - sum(lengths) / ((max(fit_rows(lengths, length)[0]) + 1) * length)


def pack(tokens: Int[Tensor, " T"], offsets: Sequence[int], limit: int, allowed: Sequence[int] = ()) -> Packing:
    """Pack the ragged set ``tokens[offsets[u]:offsets[u + 1]]`` into rows as long as `row_length` says."""
    device = tokens.device
    lengths = [end - start for start, end in pairwise(offsets)]
    length = row_length(lengths, limit, allowed)
    rows, starts = fit_rows(lengths, length)
    count = max(rows) + 1

    first = [row * length + start for row, start in zip(rows, starts, strict=True)]
    sizes, begins, first = on_device(np.array([lengths, offsets[:-1], first]), device)
    text = torch.repeat_interleave(torch.arange(len(lengths), device=device), sizes, output_size=len(tokens))
    position = torch.arange(len(tokens), device=device) - begins[text]
    slot = first[text] + position

    def spread(values: Tensor, empty: int) -> Tensor:
        flat = values.new_full((count * length,), empty)
        return flat.index_copy(0, slot, values).view(count, length)

    owner = spread(text, -1)  # empty places form a text of their own, so that no query is left with nothing to look at
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask = (owner[:, None, :, None] == owner[:, None, None, :]) & causal
    return Packing(spread(tokens, 0), spread(position, 0), mask, slot)
