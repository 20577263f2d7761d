"""Ranks of a whole data set in both directions from one matrix product: N images, M texts, each text of one image.

The papers' protocol (25,000 captions of COCO are 25,000 queries). The similarity matrix is computed in slices of texts:
once where it fits into ``keep`` bytes, else once for each direction. Slices have equal height, because BLAS takes other
paths, which round differently, for very low ones: a tie must stay a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.ranking import NEVER, Ranks
from eval.metrics.similarity import check_index, exact_fp32

KEEP = 1 << 30  # bytes
SLICE = 1024  # texts


class BidirectionalRanks(NamedTuple):
    """Ranks of every text's image and of every image's best text, and the nearest candidate of each."""

    text_to_image: Ranks
    image_to_text: Ranks
    nearest_image: Int[Tensor, " M"]
    nearest_text: Int[Tensor, " N"]

    def by_direction(self) -> dict[str, Ranks]:
        """The ranks by the directions' names, as they stand in results."""
        return {"text_to_image": self.text_to_image, "image_to_text": self.image_to_text}


def rank_bidirectional(
    images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], owner: Int[Tensor, " M"], keep: int = KEEP
) -> BidirectionalRanks:
    """Ranks by inner product; ``owner`` is the image each text belongs to.

    An image without a text is a candidate, and its rank is ``NEVER``. Of equal candidates the first is the nearest.
    Raises ValueError for embeddings that are not finite, owners out of range, and no embedding at all.
    """
    for name, rows in (("images", images), ("texts", texts)):
        if not len(rows) or not rows.isfinite().all():
            raise ValueError(f"{name} must be finite embeddings, at least one, got {list(rows.shape)}")
    if len(owner) != len(texts):
        raise ValueError(f"owner must be one a text, got {len(owner)} for {len(texts)}")
    check_index("owner", owner, len(images))
    with exact_fp32(images.device):
        slices = _slices(images.float(), texts.float(), keep)
        scores, text_to_image, nearest_image = _rank_images(slices, owner)
        best = images.new_full((len(images),), -torch.inf, dtype=torch.float32)
        best = best.scatter_reduce(0, owner, scores, "amax")
        better, no_worse, nearest_text = _count_texts(slices, best)
    own_best = torch.zeros_like(better).scatter_add(0, owner, (scores == best[owner]).long())
    has_text = best.isfinite()
    image_to_text = Ranks(better.where(has_text, NEVER), (no_worse - own_best).where(has_text, NEVER))
    return BidirectionalRanks(text_to_image, image_to_text, nearest_image, nearest_text)


Slice = tuple[int, Float[Tensor, "m N"]]  # its first text; similarities


def _slices(images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], keep: int) -> Callable[[], Iterator[Slice]]:
    """A function that iterates over the slices; it computes them anew each time unless they fit into ``keep`` bytes."""
    columns, parts = images.T.contiguous(), torch.tensor_split(texts, -(-len(texts) // SLICE))

    def compute() -> Iterator[Slice]:
        first = 0
        for part in parts:
            yield first, part @ columns
            first += len(part)

    if 4 * len(texts) * len(images) > keep:
        return compute
    stored = list(compute())
    return lambda: iter(stored)


def _rank_images(
    slices: Callable[[], Iterator[Slice]], owner: Int[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Ranks, Int[Tensor, " M"]]:
    """For every text: the score of its image, the image's ranks, and the nearest image."""
    scores, better, no_worse, nearest = [], [], [], []
    for first, similarity in slices():
        score = similarity.gather(1, owner[first : first + len(similarity), None])
        scores.append(score[:, 0])
        better.append((similarity > score).sum(1, dtype=torch.int32))
        no_worse.append((similarity >= score).sum(1, dtype=torch.int32))
        nearest.append(similarity.argmax(1))
    return torch.cat(scores), Ranks(torch.cat(better).long(), torch.cat(no_worse).long() - 1), torch.cat(nearest)


def _count_texts(
    slices: Callable[[], Iterator[Slice]], best: Float[Tensor, " N"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
    """For every image: how many texts score above ``best``, how many at least as much, and the nearest text."""
    better, no_worse, nearest = (torch.zeros(len(best), dtype=torch.long, device=best.device) for _ in range(3))
    top = torch.full_like(best, -torch.inf)
    for first, similarity in slices():
        better += (similarity > best).sum(0, dtype=torch.int32)
        no_worse += (similarity >= best).sum(0, dtype=torch.int32)
        value, row = similarity.max(0)
        nearest = torch.where(value > top, row + first, nearest)
        top = torch.maximum(top, value)
    return better, no_worse, nearest
