"""Global-Region alignment of HarmoCLIP-style training (after arXiv 2511.22594; reconstructed).

Regions r are pulled towards a global embedding c:

    L = mean over regions of (1 - r.c)^power

The caller chooses c: the class token of a crop around the box (CLIPSelf, FineCLIP: power 1; GOAL: power 2), or that of
the region's whole image. The paper's equation is not public to us.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from losses.core.process_group import shared_mean


class GlobalRegionLoss(nn.Module):
    """Distance of unit vectors, averaged over the regions of all ranks.

    Args:
        power: exponent of the cosine distance.

    Raises:
        ValueError: where the power is not positive and finite.
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(power) and power > 0):
            raise ValueError(f"power must be positive and finite, got {power}")
        self.power = power

    def forward(
        self, regions: Float[Tensor, "P D"], targets: Float[Tensor, "P D"], valid: Bool[Tensor, " P"] | None = None
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0, still attached to the graph,
        where there is no region.

        Args:
            regions, targets: unit vectors; row p of one belongs to row p of the other.
            valid: True for regions that take part, all by default; the contents of the others, NaN included, have no
            effect.

        Raises:
            ValueError: where shapes do not agree.
        """
        if regions.ndim != 2 or regions.shape != targets.shape:
            raise ValueError(
                f"regions and targets must both be [P, D], got {list(regions.shape)} and {list(targets.shape)}"
            )
        if valid is None:
            valid = torch.ones(len(regions), dtype=torch.bool, device=regions.device)
        if valid.shape != regions.shape[:1] or valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool [P] = {list(regions.shape[:1])}, got {valid.dtype} {[*valid.shape]}")
        with torch.autocast(regions.device.type, enabled=False):
            dtype = torch.promote_types(regions.dtype, torch.float32)
            r, c = (torch.where(valid[:, None], x, 0).to(dtype) for x in (regions, targets))
            distance = (1 - (r * c).sum(-1)).clamp(min=0)
            losses = torch.where(valid, distance if self.power == 1 else distance**self.power, 0)
            return shared_mean(losses.sum(), valid.sum().to(losses))
