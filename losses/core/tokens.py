"""Tokens of images and of their texts, as the losses between tokens take them."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor


def checked_mask(image_tokens: Tensor, text_tokens: Tensor, text_valid: Tensor | None) -> Bool[Tensor, "B M"]:
    """The text's mask; all of it where there is none.

    Args:
        image_tokens: [B, N, D].
        text_tokens: [B, M, D].
        text_valid: text tokens that are there, [B, M].

    Raises:
        ValueError: where shapes do not agree, or the mask is not bool.
    """
    image, text, valid = image_tokens, text_tokens, text_valid
    if image.ndim != 3 or text.ndim != 3 or image.shape[::2] != text.shape[::2]:
        raise ValueError(
            "image_tokens and text_tokens must be [B, N, D] and [B, M, D], "
            f"got {list(image.shape)} and {list(text.shape)}"
        )
    if valid is None:
        return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    if valid.dtype != torch.bool or valid.shape != text.shape[:2]:
        raise ValueError(f"text_valid must be bool [B, M] = {list(text.shape[:2])}, got {valid.dtype} {[*valid.shape]}")
    return valid
