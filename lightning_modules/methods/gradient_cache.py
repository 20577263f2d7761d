"""Gradient caching: batches whose activations do not fit into memory are embedded in parts, twice.

A contrastive loss needs the embeddings of the whole batch at once, but not their activations. Gradient caching (Gao et
al., arXiv 2101.06983) embeds the batch part by part, evaluates the loss once over all embeddings, and embeds each part
again, from the same random state, for its share of the gradient. Here a part is a checkpointed function of torch's, so
autograd does the replay: losses, temperatures and modules after the encoder need no special treatment, gradients meet
in one backward pass, and DDP or FSDP2 reduce them once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from datamodules.batch import RaggedTexts
from lightning_modules.distributed.wrapping import calls_on_all_ranks
from lightning_modules.networks import Encoder, ImageFeatures, TextFeatures
from losses.core.host_copies import derived, on_host

replayed = partial(checkpoint, use_reentrant=False)  # restores random state and autocast


@dataclass(frozen=True)
class MemoryConfig:
    """Ways to save memory in training; each costs one more forward pass of the part that it covers.

    Args:
        grad_cache_chunk: gradient caching: images, with their share of the texts, whose activations are in memory at a
            time; crops alike. The result is that of the whole batch. None: all at once.
        activation_checkpointing: every transformer block keeps its input only.
    """

    grad_cache_chunk: int | None = None
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.grad_cache_chunk is not None and self.grad_cache_chunk < 1:
            raise ValueError(f"memory.grad_cache_chunk must be at least 1, got {self.grad_cache_chunk}")


def encode_by_parts(
    encoder: Encoder,
    encode_image: Callable[[Float[Tensor, "b 3 H W"], bool], ImageFeatures],
    pixels: Float[Tensor, "B 3 H W"],
    texts: RaggedTexts,
    part: int,
    dense: bool = True,
) -> tuple[ImageFeatures, TextFeatures]:
    """Encode a batch in parts: ``part`` images and as large a share of the texts at a time.

    ``encode_image`` is the encoder's, or gives what that gives; ``dense`` as there.

    Under FSDP2 all ranks run a tower equally often: a rank with fewer parts embeds an image, or a text, whose features
    are left out.
    """
    image_parts = pixels.split(part)
    parts = calls_on_all_ranks(encoder, len(image_parts))
    text_parts = list(split_texts(texts, parts))
    images = [replayed(encode_image, chunk, dense) for chunk in image_parts]
    images += [_no_rows(replayed(encode_image, pixels[:1], dense)) for _ in range(parts - len(image_parts))]
    encoded = [replayed(encoder.encode_text, chunk) for chunk in text_parts]
    encoded += [_no_rows(replayed(encoder.encode_text, text_parts[0])) for _ in range(parts - len(text_parts))]
    return (
        ImageFeatures(*(torch.cat(tensors) for tensors in zip(*images, strict=True))),
        TextFeatures(*(torch.cat(tensors) for tensors in zip(*encoded, strict=True))),
    )


def shared_casts(device: torch.device) -> torch.autocast:
    """Around the backward pass: parts that are embedded again share one cast of the weights.

    Autocast forgets its casts where its outermost context ends, and each part has a context of its own. Sharded weights
    are whole for a part only: they are cast for each.
    """
    return torch.autocast(device.type, enabled=False)


def _no_rows(features: Sequence[Tensor]) -> list[Tensor]:
    """The features without their rows; the pass that computed them still takes part in the backward pass."""
    return [tensor[:0] for tensor in features]


def split_texts(texts: RaggedTexts, parts: int) -> Iterator[RaggedTexts]:
    """Split the texts, in order, into ``parts`` of about equally many tokens; fewer parts where there are fewer
    texts.
    """
    offsets: list[int] = on_host(texts.offsets).tolist()
    count = len(offsets) - 1
    parts, cuts = min(parts, count), [0]
    for i in range(1, parts):  # a long text must leave one to each of the parts before and after it
        even_cut = bisect_left(offsets, offsets[-1] * i / parts)
        cuts.append(min(max(even_cut, cuts[-1] + 1), count - (parts - i)))
    for first, last in pairwise([*cuts, count]):
        start, end = offsets[first], offsets[last]
        part = derived(partial(_offsets_of, first=first, last=last), texts.offsets)
        yield RaggedTexts(texts.tokens[start:end], part, texts.ids[first:last])


def _offsets_of(offsets: Int[Tensor, " U+1"], first: int, last: int) -> Int[Tensor, " u+1"]:
    """Offsets of the texts from ``first`` to before ``last``, by themselves."""
    part = offsets[first : last + 1]
    return part - part[0]
