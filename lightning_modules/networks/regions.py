"""Features of boxes: RoIAlign over the dense map, one vector per box (HarmoCLIP; CLIPSelf, FineCLIP, FG-CLIP alike).

Tokens are pooled as they are and normalised after: normalising first would weigh all patches alike. RoIAlign is the
mean over a grid of bilinear samples inside the box, about one per patch; the whole image gives the mean token.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from lightning_modules.networks.normalize import unit


def pool_regions(
    dense: Float[Tensor, "B P D"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
) -> Float[Tensor, "R D"]:
    """One unit vector per box.

    Args:
        dense: patch tokens of a square grid, row by row, not normalised.
        boxes: x0, y0, x1, y1 in fractions of the image.
        image: the row of ``dense`` each box lies in.
    """
    side = math.isqrt(dense.shape[1])
    if side * side != dense.shape[1]:
        raise ValueError(f"dense must hold a square grid of patches, got {dense.shape[1]}")
    wide = dense.to(torch.promote_types(dense.dtype, torch.float32))
    grid = wide.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    rois = torch.cat([image.unsqueeze(1).to(wide.dtype), boxes.to(wide.dtype) * side], dim=1)
    return unit(roi_align(grid, rois, output_size=1, sampling_ratio=-1, aligned=True).flatten(1))
