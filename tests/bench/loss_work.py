"""Benchmarks of the losses: β-CAL against a dense one, and time and memory as the number of texts grows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

K, WIDTH = 36, 512
MODES = ("CLIP", "β-CAL CE", "β-CAL BCE", "β-CAL CE, blocks of 64")


def beta_cal(side: str, objective: str, images: int) -> Callable[[], None]:
    """β-CAL forward and backward, a tenth of the slots padded."""
    from losses import BetaCalLoss
    from tests.bench.dense_beta_cal import dense_beta_cal

    torch.manual_seed(0)
    pooled, text = (functional.normalize(torch.randn(images, K, WIDTH), dim=-1) for _ in range(2))
    valid = torch.rand(images, K) > 0.1
    loss = BetaCalLoss(objective, beta=0.5)  # type: ignore[arg-type]

    def work() -> None:
        u, v = pooled.clone().requires_grad_(), text.clone().requires_grad_()
        scale = torch.tensor(14.3, requires_grad=True)
        if side == "new":
            loss(u, v, valid, scale).backward()
        else:
            dense_beta_cal(objective, u, v, valid, scale, 0.5)[0].backward()

    return work


def growing(mode: str, texts: int) -> Callable[[], None]:
    """One of ``MODES`` on about ``texts`` texts (for CLIP, images), forward and backward."""
    from losses import BetaCalLoss, ClipLoss

    torch.manual_seed(0)
    slots = 1 if mode == "CLIP" else 32
    a, b = (functional.normalize(torch.randn(texts // slots, slots, WIDTH), dim=-1) for _ in range(2))
    valid = torch.ones(texts // slots, slots, dtype=torch.bool)
    clip = ClipLoss()
    cal = BetaCalLoss("bce" if "BCE" in mode else "ce", negatives=64 if "blocks" in mode else "all")

    def work() -> None:
        u, v = a.clone().requires_grad_(), b.clone().requires_grad_()
        scale = torch.tensor(14.3, requires_grad=True)
        loss = clip(u[:, 0], v[:, 0], scale) if mode == "CLIP" else cal(u, v, valid, scale)
        loss.backward()

    return work
