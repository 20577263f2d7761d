"""Scaled dot-product attention of both towers.

On a CPU torch's fused attention takes three times as long in bf16 as in fp32, backward above all, so there it runs in
fp32 and only its result is rounded. On a GPU it runs as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from lightning_modules.networks.variable_length import Spans, attend_spans

TEXT_ATTENTION = "grainclip"  # what transformers' text tower calls it by


def attend(
    query: Float[Tensor, "B H M D"],
    key: Float[Tensor, "B H N D"],
    value: Float[Tensor, "B H N D"],
    attention: Callable[[Tensor, Tensor, Tensor], Tensor] = scaled_dot_product_attention,
) -> Tensor:
    """``attention(query, key, value)``, by default softmax(q kᵀ/√D) v; in fp32 where bf16 comes on a CPU."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return attention(query.float(), key.float(), value.float()).to(query.dtype)


def precision_of(weights: Tensor) -> torch.dtype:
    """The precision in which a tower with such weights attends here, under autocast or not."""
    device, precision = weights.device.type, weights.dtype
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
    return torch.float32 if device == "cpu" and precision == torch.bfloat16 else precision


def additive(mask: Bool[Tensor, "*rows L L"], precision: torch.dtype) -> Float[Tensor, "*rows L L"]:
    """A mask as what is added to logits. Given to every layer it is kept once for the backward pass; of a bool one each
    layer would make, and keep, its own.
    """
    return torch.zeros(mask.shape, dtype=precision, device=mask.device).masked_fill_(~mask, -torch.inf)


def _text_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: Spans | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``attend`` by transformers' own call of the fused attention, which knows its masks; or within ``spans`` of the
    only row.
    """
    if spans is not None:
        return attend_spans(query, key, value, spans, kwargs.get("scaling")), None

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)[0]

    return attend(query, key, value, fused), None


AttentionInterface.register(TEXT_ATTENTION, _text_attention)
AttentionMaskInterface.register(TEXT_ATTENTION, AttentionMaskInterface()["sdpa"])
