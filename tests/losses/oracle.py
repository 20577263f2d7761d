"""β-CAL pair by pair, from the equations: what the losses must equal, in float64 and with autograd's gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Case(NamedTuple):
    """Inputs of β-CAL: unit vectors [B, K, D]; padded slots hold junk."""

    pooled: Tensor
    text: Tensor
    valid: Tensor
    scale: Tensor
    text_id: Tensor | None = None
    weight: Tensor | None = None

    def leaves(self) -> Case:
        """The same numbers as new leaves of the graph."""
        return self._replace(**{name: getattr(self, name).detach().clone().requires_grad_() for name in LEAVES})

    def grads(self) -> list[Tensor]:
        return [getattr(self, name).grad for name in LEAVES]


LEAVES = ("pooled", "text", "scale")


def random_case(images=5, texts=4, width=6, seed=0, scale=7.0, ids=False, weights=False, dtype=torch.float64) -> Case:
    """Some slots of each image are padded, with NaN; image 1 has no text; ids repeat within and between images."""
    g = torch.Generator().manual_seed(seed)
    pooled, text = (
        F.normalize(torch.randn(images, texts, width, generator=g, dtype=torch.float64), dim=-1) for _ in range(2)
    )
    valid = torch.rand(images, texts, generator=g) < 0.7
    valid[1:2] = False
    junk = torch.where(valid, 0.0, math.nan)[..., None]
    return Case(
        (pooled + junk).to(dtype),
        (text + junk).to(dtype),
        valid,
        torch.tensor(scale, dtype=dtype),
        torch.randint(-3, 4, (images, texts), generator=g) * 2**40 if ids else None,
        torch.rand(images, texts, generator=g, dtype=dtype) + 0.2 if weights else None,
    )


class Slot(NamedTuple):
    image: int
    pooled: Tensor
    text: Tensor
    text_id: int
    weight: Tensor | float


def slots_of(case: Case) -> list[Slot]:
    slots = []
    for b, k in case.valid.nonzero().tolist():
        text_id = len(slots) if case.text_id is None else int(case.text_id[b, k])
        weight = 1.0 if case.weight is None else case.weight[b, k]
        slots.append(Slot(b, case.pooled[b, k], case.text[b, k], text_id, weight))
    return slots


def meets(a: Slot, b: Slot, block: int | None) -> bool:
    """Does the pair count: of one image, or of different texts of two images of one block?"""
    if a.image == b.image:
        return True
    return a.text_id != b.text_id and (block is None or a.image // block == b.image // block)


def oracle_ce(case: Case, beta: float, alpha: float = 1.0, block: int | None = None) -> Tensor:
    """At β = 0 a text of the same image that says the same is no positive, and no negative either."""
    slots = slots_of(case)
    total, mass = torch.zeros((), dtype=torch.float64), 0.0
    for i, a in enumerate(slots):
        strength = {j: alpha if i == j else beta for j, b in enumerate(slots) if a.image == b.image}
        met = [j for j, b in enumerate(slots) if meets(a, b, block)]
        if beta == 0:
            met = [j for j in met if j == i or slots[j].text_id != a.text_id]
        for z in (lambda j, a=a: a.pooled @ slots[j].text, lambda j, a=a: slots[j].pooled @ a.text):
            denominator = torch.stack([torch.exp(case.scale * z(j)) for j in met]).sum()
            for j, share in strength.items():
                log_p = case.scale * z(j) - torch.log(denominator)
                total = total - a.weight * share / sum(strength.values()) * log_p / 2
        mass = mass + a.weight
    return total / mass


def oracle_bce(
    case: Case, beta: float, bias: Tensor | float = 0.0, normalize_by: str = "pair", block: int | None = None
) -> Tensor:
    slots = slots_of(case)
    total, pairs, rows = torch.zeros((), dtype=torch.float64), 0.0, 0.0
    for i, a in enumerate(slots):
        rows = rows + a.weight
        for j, b in enumerate(slots):
            if not meets(a, b, block):
                continue
            weight = (a.weight + b.weight) / 2
            pairs = pairs + weight
            z = case.scale * (a.pooled @ b.text) + bias
            if a.image != b.image:
                total = total - weight * F.logsigmoid(-z)
            else:
                total = total - weight * (1.0 if i == j else beta) * F.logsigmoid(z)
    return total / (pairs if normalize_by == "pair" else rows)
