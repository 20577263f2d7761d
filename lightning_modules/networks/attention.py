"""Scaled dot-product attention of both towers.

On a CPU torch's fused attention takes three times as long in bf16 as in fp32, backward above all, so there it runs in
fp32 and only its result is rounded. On a GPU it runs as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

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


def _text_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """``attend`` by transformers' own call of the fused attention, which knows its masks."""

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)[0]

    return attend(query, key, value, fused), None


AttentionInterface.register(TEXT_ATTENTION, _text_attention)
AttentionMaskInterface.register(TEXT_ATTENTION, AttentionMaskInterface()["sdpa"])
