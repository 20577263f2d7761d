"""β-CAL as the published code computes it: dense, on one rank, padding included.

Padded slots are negatives in CE's denominators, but not rows of the mean; BCE divides by all (BK)^2 pairs. Tests
compare it with numbers of that code. For comparison only: memory grows with (BK)^2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from losses.core.contrastive import Scalar


def published_ce(
    pooled: Float[Tensor, "B K D"],
    text: Float[Tensor, "B K D"],
    valid: Bool[Tensor, "B K"],
    scale: Scalar,
    alpha: float,
    beta: float,
) -> Float[Tensor, ""]:
    """The mean of both directions; 0 where no slot is valid."""
    z, same_image, same_slot, both_valid = _pairs(pooled, text, valid, scale)
    strength = (alpha * same_slot.to(z) + beta * (same_image & ~same_slot).to(z)) * both_valid
    target = strength / strength.sum(1, keepdim=True).clamp(min=1e-8)
    loss = -(target * (z.log_softmax(1) + z.T.log_softmax(1))).sum()
    return loss / (2 * valid.sum().clamp(min=1))


def published_bce(
    pooled: Float[Tensor, "B K D"],
    text: Float[Tensor, "B K D"],
    valid: Bool[Tensor, "B K"],
    scale: Scalar,
    beta: float,
) -> Float[Tensor, ""]:
    """The sum over valid pairs, divided by all pairs; both directions are the same number."""
    z, same_image, same_slot, both_valid = _pairs(pooled, text, valid, scale)
    weight = (1 + (beta - 1) * (same_image & ~same_slot).to(z)) * both_valid
    return (weight * (F.softplus(z) - same_image * z)).sum() / max(z.numel(), 1)


def _pairs(
    pooled: Float[Tensor, "B K D"],
    text: Float[Tensor, "B K D"],
    valid: Bool[Tensor, "B K"],
    scale: Scalar,
) -> tuple[Float[Tensor, "N N"], Bool[Tensor, "N N"], Bool[Tensor, "N N"], Bool[Tensor, "N N"]]:
    """Logits, and masks of the pairs of one image, of one slot, and of two valid slots."""
    dtype = torch.promote_types(pooled.dtype, torch.float32)
    with torch.autocast(pooled.device.type, enabled=False):
        z = scale * pooled.flatten(0, 1).to(dtype) @ text.flatten(0, 1).to(dtype).T
    image = torch.arange(valid.numel(), device=valid.device) // max(valid.shape[1], 1)
    same_slot = torch.eye(valid.numel(), dtype=torch.bool, device=valid.device)
    mask = valid.flatten()
    return z, image[:, None] == image, same_slot, mask[:, None] & mask
