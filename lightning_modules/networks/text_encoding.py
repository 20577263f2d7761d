"""Strings to unit vectors by an encoder: what a method offers, and what benchmarks ask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batching.collate import pack_texts
from lightning_modules.networks.contract import Encoder


@torch.no_grad()
def encode_strings(encoder: Encoder, texts: Sequence[str], device: torch.device) -> Float[Tensor, "N D"]:
    """Unit vectors of the texts, on the encoder's ``device``; a text beyond the context is cut."""
    unique, index = pack_texts(texts, encoder.tokenizer)
    moved = type(unique)(*(part.to(device) for part in unique))
    return encoder.encode_text(moved).text[index.to(device)]
