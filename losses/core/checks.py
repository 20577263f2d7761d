"""Checks of the tensors that losses take: shapes that belong together, and masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor


def check_slots(shape: torch.Size, axes: str, valid: Tensor | None, **others: Tensor | None) -> None:
    """Raise ValueError unless ``valid`` and the ``others``, where they are given, have ``shape``, and ``valid`` is
    bool.

    ``axes`` names the axes in messages: "B, K".
    """
    for name, tensor in {"valid": valid, **others}.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be [{axes}] = {list(shape)}, got {list(tensor.shape)}")
    if valid is not None and valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {valid.dtype}")


def token_mask(image_tokens: Tensor, text_tokens: Tensor, text_valid: Tensor | None) -> Bool[Tensor, "B M"]:
    """The mask of the text tokens; True everywhere where ``text_valid`` is None.

    Args:
        image_tokens: [B, N, D].
        text_tokens: [B, M, D].
        text_valid: True for text tokens, False for padding, [B, M].

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
