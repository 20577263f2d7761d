"""Features of boxes: RoIAlign over the dense map, one vector per box (HarmoCLIP; CLIPSelf, FineCLIP, FG-CLIP alike).

Tokens are pooled as they are and normalised after: normalising first would weigh all patches alike. RoIAlign is the
mean over a grid of bilinear samples inside the box, about one per patch; the whole image gives the mean token.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from lightning_modules.networks.normalize import unit


def pool_regions(
    dense: Float[Tensor, "B D h w"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
) -> Float[Tensor, "R D"]:
    """One unit vector per box.

    Args:
        dense: patch features, not normalised.
        boxes: x0, y0, x1, y1 in fractions of the image.
        image: the row of ``dense`` each box lies in.
    """
    wide = dense.to(torch.promote_types(dense.dtype, torch.float32))
    height, width = dense.shape[2:]
    sides = wide.new_full((4,), width)
    sides[1::2] = height
    corners = boxes.to(wide.dtype) * sides
    rois = torch.cat([image.unsqueeze(1).to(wide.dtype), corners], dim=1)
    return unit(roi_align(wide, rois, output_size=1, sampling_ratio=-1, aligned=True).flatten(1))
