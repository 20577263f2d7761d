"""Longer captions than CLIP was trained for: a stretched table of positions whose well-trained start stays put.

CLIP reads 77 tokens, and few of its training captions were longer than 20. Long-CLIP (arXiv 2403.15378), and β-CLIP
after it, keep the first 20 positions as they are and stretch the others fourfold by linear interpolation, 77 -> 248:

    new[p] = old[p]                                   p < 20
    new[p] = (1 - r) old[i] + r old[i + 1]            i + r = 20 + (p - 20) (old - 20) / (new - 20)

with old[77] extrapolated from the last two rows. The kept rows are then frozen and only the others are trained. Where
we differ: any length to any longer one (the same formula), and the frozen rows are no parameter at all, where Long-CLIP
keeps two full tables and masks them: so neither a gradient nor weight decay can move them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

CLIP_CONTEXT = 77
KEPT = 20  # positions that CLIP's captions trained well


def stretch_positions(table: Float[Tensor, "old C"], length: int, kept: int = KEPT) -> Float[Tensor, "new C"]:
    """The table stretched to ``length`` rows, the first ``kept`` of them unchanged.

    Raises:
        ValueError: where the table has fewer than ``kept + 2`` rows, or ``length`` fewer than the table.
    """
    rows = table.shape[0]
    if rows < kept + 2:
        raise ValueError(f"table must have at least kept + 2 = {kept + 2} rows to interpolate between, got {rows}")
    if length < rows:
        raise ValueError(f"length must be at least the table's {rows} rows, got {length}")
    extended = torch.cat([table, 2 * table[-1:] - table[-2:-1]])
    step = (rows - kept) / (length - kept)
    position = kept + step * torch.arange(length - kept, dtype=torch.float64, device=table.device)
    below = position.floor().long()
    share = (position - below).to(table.dtype).unsqueeze(-1)
    return torch.cat([table[:kept], (1 - share) * extended[below] + share * extended[below + 1]])


class PositionTable(nn.Module):
    """An embedding of positions whose first ``frozen`` rows are constants and whose other rows are trained.

    Stands in for transformers' ``position_embedding``. The state dict holds the two parts, ``frozen`` and ``trained``;
    ``weight`` is the whole table, which is what other formats store, and ``load_table`` reads one.
    """

    def __init__(self, table: Float[Tensor, "L C"], frozen: int = 0) -> None:
        super().__init__()
        if not 0 <= frozen < table.shape[0]:
            raise ValueError(f"frozen must lie in [0, {table.shape[0]}), the rows of the table, got {frozen}")
        self.frozen: Tensor
        self.register_buffer("frozen", table[:frozen].detach().clone())
        self.trained = nn.Parameter(table[frozen:].detach().clone())

    @property
    def weight(self) -> Float[Tensor, "L C"]:
        """The whole table, frozen rows first."""
        return torch.cat([self.frozen, self.trained])

    @torch.no_grad()
    def load_table(self, table: Float[Tensor, "L C"]) -> None:
        """Take over a whole table of the same shape."""
        if table.shape != self.weight.shape:
            raise ValueError(f"table must have shape {tuple(self.weight.shape)}, got {tuple(table.shape)}")
        self.frozen.copy_(table[: len(self.frozen)])
        self.trained.copy_(table[len(self.frozen) :])

    def forward(self, positions: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows C"]:
        """Rows of the table."""
        return functional.embedding(positions, self.weight)
