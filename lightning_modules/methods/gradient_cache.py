"""Batches larger than memory: what is kept for the backward pass, and what is computed again.

A contrastive loss needs the embeddings of the whole batch at once, but not their activations. Gradient caching (Gao et
al., arXiv 2101.06983) embeds the batch part by part, evaluates the loss once over all embeddings, and embeds each part
again, from the same random state, for its share of the gradient. Here a part is a checkpointed function of torch's, so
autograd does the replay: losses, temperatures and modules after the encoder need no special treatment, gradients meet
in one backward pass, and DDP or FSDP2 reduce them once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from datamodules.batch import RaggedTexts
from lightning_modules.distributed.wrapping import calls_on_all_ranks
from lightning_modules.networks import DualEncoder, ImageFeatures, TextFeatures


@dataclass(frozen=True)
class MemoryConfig:
    """Ways to save memory in training; each costs one more forward pass of the part that it covers.

    Args:
        grad_cache_chunk: images (with as many parts of the texts) whose activations are in memory at a time: gradient
            caching. The result is that of the whole batch. None: all at once.
        activation_checkpointing: every transformer block keeps its input only.
    """

    grad_cache_chunk: int | None = None
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.grad_cache_chunk is not None and self.grad_cache_chunk < 1:
            raise ValueError(f"memory.grad_cache_chunk must be at least 1, got {self.grad_cache_chunk}")


def encode_by_parts(
    encoder: DualEncoder, pixels: Float[Tensor, "B 3 H W"], texts: RaggedTexts, part: int
) -> tuple[ImageFeatures, TextFeatures]:
    """Encodes a batch in parts: ``part`` images and as large a share of the texts at a time.

    Under FSDP2 all ranks run a tower equally often: a rank with fewer parts embeds an image, or a text, whose features
    are left out.
    """
    replayed = partial(checkpoint, use_reentrant=False)  # restores random state and autocast
    some_images = pixels.split(part)
    parts = calls_on_all_ranks(encoder, len(some_images))
    some_texts = list(split_texts(texts, parts))
    images = [replayed(encoder.encode_image, some) for some in some_images]
    images += [_none_of(replayed(encoder.encode_image, pixels[:1])) for _ in range(parts - len(some_images))]
    shares = [replayed(encoder.encode_text, some) for some in some_texts]
    shares += [_none_of(replayed(encoder.encode_text, some_texts[0])) for _ in range(parts - len(some_texts))]
    return (
        ImageFeatures(*(torch.cat(tensors) for tensors in zip(*images, strict=True))),
        TextFeatures(*(torch.cat(tensors) for tensors in zip(*shares, strict=True))),
    )


def _none_of(features: Sequence[Tensor]) -> list[Tensor]:
    """No row of them, but the pass that made them in the graph: it takes part in the backward pass."""
    return [tensor[:0] for tensor in features]


def split_texts(texts: RaggedTexts, parts: int) -> Iterator[RaggedTexts]:
    """The texts in order, in so many parts of about equally many tokens; fewer only where there are fewer texts."""
    offsets: list[int] = texts.offsets.tolist()
    count = len(offsets) - 1
    parts, cuts = min(parts, count), [0]
    for i in range(1, parts):  # a long text must leave one to each of the parts before and after it
        wanted = bisect_left(offsets, offsets[-1] * i / parts)
        cuts.append(min(max(wanted, cuts[-1] + 1), count - (parts - i)))
    for first, last in pairwise([*cuts, count]):
        start, end = offsets[first], offsets[last]
        yield RaggedTexts(texts.tokens[start:end], texts.offsets[first : last + 1] - start, texts.ids[first:last])
