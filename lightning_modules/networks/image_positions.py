"""The same encoder on larger images: more patches of the same size, the position table stretched to them.

The table is stretched as CLIPSelf does it (arXiv 2310.01403, its OpenAI towers): bicubic, the class token's row kept.
All weights but that table are shared with the encoder it is made of; nothing is copied.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.encoder import DualEncoder

POSITIONS = "image_tower.pos_embed"


def with_grid(encoder: DualEncoder, side: int) -> DualEncoder:
    """An encoder whose images are ``side`` by ``side`` patches. Raises ValueError for a side below 1."""
    if side < 1:
        raise ValueError(f"side must be at least 1 patch, got {side}")
    config = replace(encoder.config, image_size=side * encoder.config.patch_size)
    state = dict(encoder.state_dict(keep_vars=True))
    state[POSITIONS] = torch.nn.Parameter(stretch_grid(state[POSITIONS].detach(), side))
    with torch.device("meta"):
        larger = DualEncoder(config)
    larger.load_state_dict(state, assign=True)
    larger.text_tower, larger.temperature = encoder.text_tower, encoder.temperature
    return larger.train(encoder.training)


def stretch_grid(table: Float[Tensor, "1 N C"], side: int) -> Float[Tensor, "1 M C"]:
    """A position table of a class token and a square grid, row by row, for a grid of ``side`` by ``side``."""
    old = math.isqrt(table.shape[1] - 1)
    grid = table[:, 1:].mT.unflatten(2, (old, old)).float()
    larger = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], larger.flatten(2).mT.to(table.dtype)], dim=1)
