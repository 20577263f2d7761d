"""Image positions for larger images, stretched as CLIPSelf does it (arXiv 2310.01403, its OpenAI towers): bicubic, the
class token's row kept where there is one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def stretch_grid(table: Float[Tensor, "1 N C"], side: int, leading: int = 1) -> Float[Tensor, "1 M C"]:
    """A position table of a class token (``leading`` 0: none) and a square grid, row by row, for a grid of ``side`` by
    ``side``.
    """
    old = math.isqrt(table.shape[1] - leading)
    grid = table[:, leading:].mT.unflatten(2, (old, old)).float()
    larger = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :leading], larger.flatten(2).mT.to(table.dtype)], dim=1)
