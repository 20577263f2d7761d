"""Image positions for larger images, stretched as CLIPSelf does it (arXiv 2310.01403, its OpenAI towers): bicubic, the
class token's row kept.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def stretch_grid(table: Float[Tensor, "1 N C"], side: int) -> Float[Tensor, "1 M C"]:
    """A position table of a class token and a square grid, row by row, for a grid of ``side`` by ``side``."""
    old = math.isqrt(table.shape[1] - 1)
    grid = table[:, 1:].mT.unflatten(2, (old, old)).float()
    larger = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], larger.flatten(2).mT.to(table.dtype)], dim=1)
