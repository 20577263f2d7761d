"""Re-ranking: the k nearest candidates of each query, put into a new order by a second, more expensive score.

The first score is the cosine of text and image embeddings. The second is any function of a text and an image; for a
model with text-conditioned pooling (β-CLIP, GrainClip) it is the cosine of a text and the image pooled by that text:
``eval.protocols.reranking``. Every query, text or image, is treated alike: a candidate is scored by a text and an image
that are given, not by the right answer, so nothing leaks (``oracle:FILE`` pools each image by its own caption).

What lies behind the k nearest keeps the order of the first score, and its place behind all of them. Of candidates with
equal cosines those that stand first in the data are the nearest. Within the k nearest ties are counted both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.metrics.bidirectional_ranking import BidirectionalRanks
from eval.metrics.ranking import NEVER, Ranks
from eval.metrics.similarity import check_index, exact_fp32, unit_rows

SLICE = 1024  # queries


class Shortlist(NamedTuple):
    """The nearest candidates of each query, in the data's order, and the ranks of right answers behind them."""

    candidates: Int[Tensor, "Q k"]
    right: Bool[Tensor, "Q k"]
    behind: Ranks  # for queries with no right answer among the candidates


def rerank(
    images: Float[Tensor, "N D"],
    texts: Float[Tensor, "M D"],
    owner: Int[Tensor, " M"],
    k: int,
    score: Callable[[Int[Tensor, "P 2"]], Float[Tensor, " P"]],
) -> BidirectionalRanks:
    """Ranks in both directions, the k nearest candidates of each query re-ordered by ``score``.

    Memory is O(1024 · (N + M) + k · (N + M)), and what ``score`` takes.

    Args:
        images: unit vectors.
        texts: unit vectors; of equal ones the first is scored, so that their ties stay ties.
        owner: the image each text belongs to.
        k: candidates of each query that are scored anew; more than there are means all.
        score: of pairs (text, image), each once and sorted by image; the higher, the nearer.

    Raises:
        ValueError: for embeddings that are not unit vectors, owners out of range, ``k`` below 1, and scores that are
            not finite or not one a pair.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    images, texts = unit_rows("images", images), unit_rows("texts", texts)
    if not len(images) or len(owner) != len(texts) or not len(texts):
        raise ValueError(f"owner must be one a text, got {len(owner)} for {len(texts)} texts, {len(images)} images")
    check_index("owner", owner, len(images))
    every_image = torch.arange(len(images), device=owner.device)
    to_images = shortlist(texts, images, owner, every_image, k)
    to_texts = shortlist(images, texts, every_image, owner, k)
    first = _first_of_equals(texts)
    codes = [
        to_images.candidates * len(texts) + first[:, None],
        every_image[:, None] * len(texts) + first[to_texts.candidates],
    ]
    distinct = torch.cat([code.flatten() for code in codes]).unique()
    scores = score(torch.stack([distinct % len(texts), distinct // len(texts)], dim=1)).to(owner.device)
    if scores.shape != distinct.shape or not scores.isfinite().all():
        raise ValueError(f"score must give a finite number for each of {len(distinct)} pairs, got {list(scores.shape)}")
    (text_ranks, nearest_image), (image_ranks, nearest_text) = (
        _ranks(found, scores[torch.searchsorted(distinct, code)])
        for found, code in zip((to_images, to_texts), codes, strict=True)
    )
    return BidirectionalRanks(text_ranks, image_ranks, nearest_image, nearest_text)


def shortlist(
    queries: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "N D"],
    query_label: Int[Tensor, " Q"],
    gallery_label: Int[Tensor, " N"],
    k: int,
) -> Shortlist:
    """The k nearest of the gallery for each query, by inner product; right are those of the query's label."""
    k, columns, parts = min(k, len(gallery)), gallery.T.contiguous(), []
    slices = -(-len(queries) // SLICE)  # of equal height, since BLAS rounds otherwise in very low ones
    with exact_fp32(queries.device):
        for rows, label in zip(queries.tensor_split(slices), query_label.tensor_split(slices), strict=True):
            parts.append(_nearest(rows @ columns, label[:, None] == gallery_label, k))
    candidates, right, better, no_worse = (torch.cat(column) for column in zip(*parts, strict=True))
    return Shortlist(candidates, right, Ranks(better, no_worse))


def _nearest(
    similarity: Float[Tensor, "q N"], right: Bool[Tensor, "q N"], k: int
) -> tuple[Int[Tensor, "q k"], Bool[Tensor, "q k"], Int[Tensor, " q"], Int[Tensor, " q"]]:
    """The k nearest, which of them are right, and the two ranks of the best right answer behind them."""
    last = similarity.topk(k, dim=1).values[:, -1:]
    above, tied = similarity > last, similarity == last
    kept = above | (tied & (tied.cumsum(1) <= k - above.sum(1, keepdim=True)))
    candidates = kept.nonzero()[:, 1].view(-1, k)
    best = similarity.where(right, -torch.inf).amax(1, keepdim=True)
    better = k + ((similarity > best) & ~kept).sum(1)
    no_worse = k + ((similarity >= best) & ~kept & ~right).sum(1)
    answered = right.any(1)
    ranks = better.where(answered, NEVER), no_worse.where(answered, NEVER)
    return candidates, right.gather(1, candidates), *ranks


def _ranks(found: Shortlist, scores: Float[Tensor, "Q k"]) -> tuple[Ranks, Int[Tensor, " Q"]]:
    """Ranks after the new order, and the nearest candidate."""
    best = scores.where(found.right, -torch.inf).amax(1, keepdim=True)
    better, no_worse = (scores > best).sum(1), ((scores >= best) & ~found.right).sum(1)
    inside = found.right.any(1)
    ranks = Ranks(better.where(inside, found.behind.optimistic), no_worse.where(inside, found.behind.pessimistic))
    return ranks, found.candidates.gather(1, scores.argmax(1, keepdim=True))[:, 0]


def _first_of_equals(rows: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
    """For each row the number of the first that equals it."""
    kind = rows.unique(dim=0, return_inverse=True)[1]
    numbers = torch.arange(len(rows), device=rows.device)
    first = torch.full((int(kind.max()) + 1,), len(rows), device=rows.device).scatter_reduce(0, kind, numbers, "amin")
    return first[kind]
