"""β-CAL the way most code writes it: the yardstick of the benchmarks. Every quantity is a matrix over all (BK)^2 pairs.

Our own words for the work that the published code does in each step: logits and their transpose are computed separately
and scaled as matrices, targets, masks and weights are built anew, BCE runs in both directions, and the share of right
predictions is counted on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dense_beta_cal(
    objective: str, pooled: Tensor, text: Tensor, valid: Tensor, scale: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """The published loss (padding included) of ``pooled``, ``text`` [B, K, D] with ``valid`` [B, K]; and accuracy."""
    images, texts, _ = pooled.shape
    u, v, mask = pooled.flatten(0, 1), text.flatten(0, 1), valid.flatten()
    to_text, to_image = scale * (u @ v.T), scale * (v @ u.T)
    image = torch.arange(images * texts, device=pooled.device) // texts
    same_image = (image[:, None] == image[None, :]).float()
    itself = torch.eye(images * texts, device=pooled.device)
    counted = mask[:, None] & mask[None, :]
    positive = (same_image * counted.float(), itself + beta * (same_image * (1 - itself)))
    if objective == "ce":
        return _softmax(to_text, to_image, positive[1] * counted.float(), mask)
    return _sigmoid(to_text, to_image, positive[0], (positive[1] + 1 - same_image) * counted.float(), mask)


def _softmax(to_text: Tensor, to_image: Tensor, strength: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    target = strength / strength.sum(1, keepdim=True).clamp(min=1e-8)
    losses, right = [], []
    for logits in (to_text, to_image):
        losses.append(-(target * F.log_softmax(logits, dim=1)).sum(1)[mask].mean())
        hit = strength.gather(1, logits.detach().argmax(1, keepdim=True)).squeeze(1) > 0
        right.append(hit[mask].float().mean())
    return torch.stack(losses).mean(), torch.stack(right).mean()


def _sigmoid(to_text: Tensor, to_image: Tensor, target: Tensor, weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    counted = mask[:, None] & mask[None, :]
    losses, right = [], []
    for raw in (to_text, to_image):
        logits = raw.masked_fill(~mask[None, :], -1e9)
        losses.append(F.binary_cross_entropy_with_logits(logits, target, weight=weight))
        guess = logits.detach().sigmoid() > 0.5
        right.append((guess[counted] == (target[counted] > 0)).float().mean())
    return torch.stack(losses).mean(), torch.stack(right).mean()
