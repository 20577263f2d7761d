"""Ranks of a whole data set in both directions from one product: N images, M texts, each text of one image.

The papers' protocol (25,000 captions of COCO are 25,000 queries). The matrix is made in slices of texts; where all of
it fits into ``keep`` bytes it is made once, else once for each direction. Slices are of equal height, since BLAS takes
other paths for very low ones, and other paths round otherwise: a tie must stay a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.ranking import NEVER, Ranks
from eval.metrics.similarity import exact_fp32

KEEP = 1 << 30  # bytes
SLICE = 1024  # texts


class BothWays(NamedTuple):
    """Ranks of every text's image and of every image's best text, and who came first."""

    text_to_image: Ranks
    image_to_text: Ranks
    nearest_image: Int[Tensor, " M"]
    nearest_text: Int[Tensor, " N"]


def rank_both_ways(
    images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], owner: Int[Tensor, " M"], keep: int = KEEP
) -> BothWays:
    """Ranks by inner product; ``owner`` is the image each text belongs to.

    An image without a text is a candidate, and its own rank is ``NEVER``. Of equal candidates the first is nearest.
    Raises ValueError for embeddings that are not finite, owners out of range, and nothing to rank.
    """
    for name, rows in (("images", images), ("texts", texts)):
        if not len(rows) or not rows.isfinite().all():
            raise ValueError(f"{name} must be finite embeddings, at least one, got {list(rows.shape)}")
    if len(owner) != len(texts) or not 0 <= int(owner.min()) <= int(owner.max()) < len(images):
        raise ValueError(f"owner must name one of {len(images)} images for each of {len(texts)} texts")
    with exact_fp32(images.device):
        make = _slices(images.float(), texts.float(), keep)
        scores, there, nearest_image = _of_texts(make, owner)
        best = images.new_full((len(images),), -torch.inf, dtype=torch.float32)
        best = best.scatter_reduce(0, owner, scores, "amax")
        back, nearest_text = _of_images(make, best)
    own = torch.zeros_like(back[0]).scatter_add(0, owner, (scores == best[owner]).long())
    asked = best.isfinite()
    back = Ranks(back[0].where(asked, NEVER), (back[1] - own).where(asked, NEVER))
    return BothWays(there, back, nearest_image, nearest_text)


Slice = tuple[int, Float[Tensor, "m N"]]  # its first text; similarities


def _slices(images: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], keep: int) -> Callable[[], Iterator[Slice]]:
    columns, parts = images.T.contiguous(), torch.tensor_split(texts, -(-len(texts) // SLICE))

    def made() -> Iterator[Slice]:
        first = 0
        for part in parts:
            yield first, part @ columns
            first += len(part)

    if 4 * len(texts) * len(images) > keep:
        return made
    kept = list(made())
    return lambda: iter(kept)


def _of_texts(
    make: Callable[[], Iterator[Slice]], owner: Int[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Ranks, Int[Tensor, " M"]]:
    scores, better, no_worse, nearest = [], [], [], []
    for first, similarity in make():
        mine = owner[first : first + len(similarity)]
        score = similarity.gather(1, mine[:, None])
        scores.append(score[:, 0])
        better.append((similarity > score).sum(1, dtype=torch.int32))
        no_worse.append((similarity >= score).sum(1, dtype=torch.int32))
        nearest.append(similarity.argmax(1))
    return torch.cat(scores), Ranks(torch.cat(better).long(), torch.cat(no_worse).long() - 1), torch.cat(nearest)


def _of_images(
    make: Callable[[], Iterator[Slice]], best: Float[Tensor, " N"]
) -> tuple[tuple[Int[Tensor, " N"], Int[Tensor, " N"]], Int[Tensor, " N"]]:
    better, no_worse, nearest = (torch.zeros(len(best), dtype=torch.long, device=best.device) for _ in range(3))
    top = torch.full_like(best, -torch.inf)
    for first, similarity in make():
        better += (similarity > best).sum(0, dtype=torch.int32)
        no_worse += (similarity >= best).sum(0, dtype=torch.int32)
        value, place = similarity.max(0)
        nearest = torch.where(value > top, place + first, nearest)
        top = torch.maximum(top, value)
    return (better, no_worse), nearest
