"""Strings to unit vectors by an encoder: what a method offers, and what benchmarks ask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batching.collate import pack_texts
from datamodules.batching.tokenizer import Tokenizer
from lightning_modules.networks import DualEncoder


@torch.no_grad()
def encode_strings(
    encoder: DualEncoder, texts: Sequence[str], tokenizer: Tokenizer, device: torch.device
) -> Float[Tensor, "N D"]:
    """Unit vectors of the texts, on the encoder's ``device``; a text beyond the context is cut and keeps its EOT."""
    unique, index = pack_texts(texts, tokenizer)
    moved = type(unique)(*(part.to(device) for part in unique))
    return encoder.encode_text(moved).text[index.to(device)]
