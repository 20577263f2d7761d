"""Every loss, forward and gradient, on the device in fp32 and from bf16 vectors, against float64 on the CPU.

The oracle gets the same vectors: those of bf16 are rounded first. So the errors are those of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses import (
    BetaCalLoss,
    ClimLoss,
    ClipLoss,
    GlobalRegionLoss,
    LexemeRegionLoss,
    MultiPositiveClipLoss,
    SigmoidLoss,
    SubcaptionLoss,
    WordPatchLoss,
)
from tests.gpu.row import Row

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCALE = 20.0


class Sizes(NamedTuple):
    """Images, texts of an image, width, patches and tokens."""

    images: int
    texts: int
    width: int
    patches: int


class Case(NamedTuple):
    """A loss with its arguments: unit vectors, which get gradients, and the rest."""

    loss: nn.Module
    vectors: dict[str, Tensor]
    others: dict[str, Any]


def cases(sizes: Sizes) -> dict[str, Case]:
    """A case for each loss."""
    draw = torch.Generator().manual_seed(0)

    def units(*shape: int) -> Tensor:
        vectors = torch.randn(*shape, sizes.width, generator=draw, dtype=torch.float64)
        return functional.normalize(vectors, dim=-1)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=draw)

    count, texts, patches = sizes.images, sizes.texts, sizes.patches
    valid = torch.rand(count, texts, generator=draw) > 0.1
    valid[:, 0] = True
    text_id = integers(20 * count * texts, count, texts)
    scale = {"scale": SCALE}
    slots = scale | {"valid": valid, "text_id": text_id}
    image, text = units(count), units(count, texts)
    regions = {"regions": units(2 * count), "lexemes": units(3 * count)}
    owner = torch.arange(count)
    links = torch.stack([torch.arange(2 * count), torch.arange(2 * count) // 2 * 3 + torch.arange(2 * count) % 2], 1)
    region_others = scale | {
        "links": links,
        "lemma": integers(count, 3 * count),
        "region_image": owner.repeat_interleave(2),
        "lexeme_image": owner.repeat_interleave(3),
    }
    pooled = {"pooled": units(count, texts), "text": text}
    tokens = {"image_tokens": units(count, patches), "text_tokens": units(count, texts)}
    return {
        "CLIP": Case(ClipLoss(), {"image": image, "text": text[:, 0]}, scale),
        "multi-positive CLIP": Case(MultiPositiveClipLoss(), {"image": image, "text": text}, slots),
        "sigmoid": Case(SigmoidLoss(), {"image": image, "text": text}, slots | {"bias": -10.0}),
        "β-CAL CE": Case(BetaCalLoss("ce"), pooled, slots),
        "β-CAL BCE, pairs": Case(BetaCalLoss("bce"), pooled, slots),
        "β-CAL BCE, rows, bias": Case(BetaCalLoss("bce", normalize_by="row", bias=-5.0), pooled, slots),
        "word-patch": Case(WordPatchLoss(), tokens, {"text_valid": valid}),
        "sentence-patch": Case(SubcaptionLoss(), {"regions": units(count, texts), "sentences": text}, slots),
        "CLIM": Case(ClimLoss(), tokens, {"text_valid": valid}),
        "lexeme-region": Case(LexemeRegionLoss(), regions, region_others),
        "global-region": Case(GlobalRegionLoss(), {"regions": units(2 * count), "targets": units(2 * count)}, {}),
    }


def evaluate(case: Case, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The loss and the gradients of its vectors, as float64 on the CPU."""
    vectors = {name: v.detach().to(device, dtype, copy=True).requires_grad_() for name, v in case.vectors.items()}
    others = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in case.others.items()}
    loss = case.loss.to(device, torch.promote_types(dtype, torch.float32))
    value = loss(**vectors, **others)
    value.backward()
    gradients = [v.grad if v.grad is not None else torch.zeros_like(v) for v in vectors.values()]
    return [tensor.detach().cpu().double() for tensor in (value, *gradients)]


def compare(case: Case, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The relative error of the loss, and the largest one of a gradient, by norms."""
    rounded = case._replace(vectors={name: v.to(dtype).double() for name, v in case.vectors.items()})
    oracle = evaluate(rounded, torch.device("cpu"), torch.float64)
    measured = evaluate(rounded, device, dtype)
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(measured, oracle, strict=True)]
    return {"loss": oracle[0].item(), "error_of_loss": errors[0], "error_of_gradient": max(errors[1:])}


def rows(device: torch.device) -> list[Row]:
    """A row for each loss and precision."""
    sizes = Sizes(64, 36, 512, 196) if device.type == "cuda" else Sizes(6, 4, 16, 9)

    def row(name: str, dtype: torch.dtype) -> dict[str, float]:
        return compare(cases(sizes)[name], device, dtype)

    names: list[tuple[str, str]] = [(name, precision) for name in cases(Sizes(2, 2, 4, 4)) for precision in PRECISIONS]
    make: Callable[..., Callable[[], dict[str, float]]] = partial
    return [Row(f"losses/{name}/{precision}", make(row, name, PRECISIONS[precision])) for name, precision in names]
