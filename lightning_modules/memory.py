"""Batches larger than memory: what is kept for the backward pass, and what is computed again.

A contrastive loss needs the embeddings of the whole batch at once, but not their activations. Gradient caching (Gao et
al., arXiv 2101.06983) embeds the batch part by part, evaluates the loss once over all embeddings, and embeds each part
again, from the same random state, for its share of the gradient. Here a part is a checkpointed function of torch's, so
autograd does the replay: losses, temperatures and modules after the encoder need no special treatment, gradients meet
in one backward pass, and DDP or FSDP2 reduce them once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from datamodules.batch import Texts
from lightning_modules.networks import DualEncoder, ImageFeatures, TextFeatures


@dataclass(frozen=True)
class MemoryConfig:
    """How memory is saved in training; either costs one more forward pass of what it covers.

    Args:
        cache_part: images (with as many parts of the texts) whose activations are in memory at a time: gradient
            caching. The result is that of the whole batch. None: all at once.
        recompute_blocks: every transformer block keeps its input only.
    """

    cache_part: int | None = None
    recompute_blocks: bool = False

    def __post_init__(self) -> None:
        if self.cache_part is not None and self.cache_part < 1:
            raise ValueError(f"memory.cache_part must be at least 1, got {self.cache_part}")


def encode_by_parts(
    encoder: DualEncoder, pixels: Float[Tensor, "B 3 H W"], texts: Texts, part: int
) -> tuple[ImageFeatures, TextFeatures]:
    """What the encoder makes of a batch, ``part`` images and as large a share of the texts at a time."""
    replayed = partial(checkpoint, use_reentrant=False)  # restores random state and autocast
    images = [replayed(encoder.encode_image, some) for some in pixels.split(part)]
    shares = [replayed(encoder.encode_text, some) for some in split_texts(texts, len(images))]
    return (
        ImageFeatures(*(torch.cat(tensors) for tensors in zip(*images, strict=True))),
        TextFeatures(*(torch.cat(tensors) for tensors in zip(*shares, strict=True))),
    )


def split_texts(texts: Texts, parts: int) -> Iterator[Texts]:
    """The texts in order, in at most so many parts of about equally many tokens."""
    offsets: list[int] = texts.offsets.tolist()
    cuts = sorted({0, len(offsets) - 1, *(bisect_left(offsets, offsets[-1] * i / parts) for i in range(1, parts))})
    for first, last in pairwise(cuts):
        start, end = offsets[first], offsets[last]
        yield Texts(texts.tokens[start:end], texts.offsets[first : last + 1] - start, texts.ids[first:last])
