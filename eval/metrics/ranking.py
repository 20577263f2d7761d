"""Recall at k: the share of queries that find a positive among their k best candidates.

The rank of a query is the number of candidates that beat its *best* positive; a hit at k is ``rank < k``. With several
positives one is enough ("hit" recall, the R@K of every CLIP paper; not the fraction of positives found).

Papers differ only in how they count ties, mostly by accident of a sort. Both conventions are computed: optimistic, a
tie does not count against the query, ``#(s > best)`` (the default, as in the FG-OVD numbers of FG-CLIP and β-CLIP), and
pessimistic, it does, ``#(negative s >= best)``. Where the two agree, ties did not matter.

For classification of images and boxes, ``rank_classes`` gives the rank of the right class and the chosen class. It
multiplies equal class vectors once, so that two classes of one name (ImageNet has two called "missile") tie to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.metrics.similarity import check_index, exact_fp32, unit_rows

SLICE = 1024  # rows that ``rank_classes`` compares at once
NEVER = torch.iinfo(torch.int64).max  # the rank of a query without a positive: no k reaches it


class Ties(str, Enum):
    """Rules for a negative that scores exactly as much as the best positive."""

    OPTIMISTIC = "optimistic"
    PESSIMISTIC = "pessimistic"


class Ranks(NamedTuple):
    """Rank of each query's best positive, from 0, with ties counted both ways."""

    optimistic: Int[Tensor, " Q"]
    pessimistic: Int[Tensor, " Q"]

    def hits(self, k: int, ties: Ties = Ties.OPTIMISTIC) -> Bool[Tensor, " Q"]:
        """True for each query with a positive among its ``k`` best."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return (self.optimistic if Ties(ties) is Ties.OPTIMISTIC else self.pessimistic) < k

    def recall(self, k: int, ties: Ties = Ties.OPTIMISTIC) -> float:
        """Share of queries that are hits at ``k``, in [0, 1]."""
        if len(self.optimistic) == 0:
            raise ValueError("recall needs at least one query, got none")
        return self.hits(k, ties).double().mean().item()

    def tied(self) -> float:
        """Share of queries whose rank depends on how ties are broken, in [0, 1]."""
        return (self.optimistic != self.pessimistic).double().mean().item()


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The K of R@K. Raises ValueError where there are none, or one is below 1."""
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be numbers from 1 on, got {tuple(ks)}")
    return tuple(ks)


def recall_at_k(
    similarity: Float[Tensor, "Q N"], positives: Bool[Tensor, "Q N"], k: int, ties: Ties = Ties.OPTIMISTIC
) -> float:
    """Share of queries with a positive among the ``k`` best candidates, in [0, 1].

    A query without any positive is a miss. Raises ValueError for scores that hold NaN or come in half precision.
    """
    return rank_matrix(similarity, positives).recall(k, ties)


def rank_matrix(similarity: Float[Tensor, "Q N"], positives: Bool[Tensor, "Q N"]) -> Ranks:
    """Ranks from a whole similarity matrix; errors as in :func:`recall_at_k`."""
    if similarity.shape != positives.shape:
        raise ValueError(
            f"similarity and positives must have one shape, got {tuple(similarity.shape)} and {tuple(positives.shape)}"
        )
    if similarity.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"similarity must be float32 or float64 (half precision makes ties), got {similarity.dtype}")
    if similarity.isnan().any():
        raise ValueError(f"similarity must hold no NaN, got {int(similarity.isnan().sum())}")
    query, candidate = positives.nonzero(as_tuple=True)
    return _rank(similarity, query, candidate)


def rank_embeddings(
    queries: Float[Tensor, "Q D"], gallery: Float[Tensor, "N D"], positives: Int[Tensor, "P 2"], chunk: int = 1024
) -> Ranks:
    """Ranks by inner product, ``chunk`` queries at a time: O(chunk · N) memory, the same numbers for any ``chunk``.

    ``positives`` lists (query, gallery row) pairs, in any order: a sentence may be right for several images, and an
    image has several sentences. For the other direction swap queries and gallery and pass ``positives.flip(1)``.
    Raises ValueError for embeddings that are not finite and for pairs out of range.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    for name, rows, index in (("queries", queries, positives[:, 0]), ("gallery", gallery, positives[:, 1])):
        if not rows.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        check_index(f"positives' rows of {name}", index, len(rows))
    width = max(len(gallery), 1)
    pairs = (positives[:, 0] * width + positives[:, 1]).unique()  # sorted by query, each once
    query, candidate = pairs // width, pairs % width
    starts = torch.arange(0, len(queries), chunk, device=queries.device)
    first = [*torch.searchsorted(query, starts).tolist(), len(query)]
    columns, ranks = gallery.float().T, []
    with exact_fp32(queries.device):
        for i, start in enumerate(starts.tolist()):
            in_chunk = slice(first[i], first[i + 1])
            similarity = queries[start : start + chunk].float() @ columns
            ranks.append(_rank(similarity, query[in_chunk] - start, candidate[in_chunk]))
    if not ranks:
        return Ranks(pairs.new_empty(0), pairs.new_empty(0))
    return Ranks(torch.cat([r.optimistic for r in ranks]), torch.cat([r.pessimistic for r in ranks]))


def _rank(similarity: Float[Tensor, "Q N"], query: Int[Tensor, " P"], candidate: Int[Tensor, " P"]) -> Ranks:
    """Ranks of the rows of ``similarity``, whose positives are the distinct entries (query, candidate)."""
    scores = similarity[query, candidate]
    best = similarity.new_full((len(similarity),), -torch.inf).scatter_reduce(0, query, scores, "amax")
    better = (similarity > best[:, None]).sum(1, dtype=torch.int32).long()  # five times faster than in int64
    no_worse = (similarity >= best[:, None]).sum(1, dtype=torch.int32).long()
    tied_positives = torch.zeros_like(better).scatter_add(0, query, (scores == best[query]).long())
    has_positive = torch.zeros_like(better).index_fill(0, query, 1).bool()
    return Ranks(better.where(has_positive, NEVER), (no_worse - tied_positives).where(has_positive, NEVER))


class ClassRanks(NamedTuple):
    """For each row, how many classes score above the right one, how many others as much, how many of these come before
    it in the list, and the class that is chosen: the first of the best.
    """

    better: Int[Tensor, " N"]
    equal: Int[Tensor, " N"]
    before: Int[Tensor, " N"]
    chosen: Int[Tensor, " N"]


def rank_classes(
    name: str, rows: Float[Tensor, "N D"], classes: Float[Tensor, "C D"], label: Int[Tensor, " N"]
) -> ClassRanks:
    """Ranks by inner product, on the CPU; ``label`` is a row of ``classes``. Raises ValueError for class vectors that
    are not unit vectors.
    """
    classes = unit_rows(f"{name}: class vectors", classes).cpu()
    distinct, copy = classes.unique(dim=0, return_inverse=True)
    order, counts = torch.arange(len(classes)), []
    with exact_fp32(rows.device):
        for chunk, right_class in zip(rows.split(SLICE), label.split(SLICE), strict=True):
            scores = (chunk @ distinct.T)[:, copy]
            right = scores.gather(1, right_class[:, None])
            same = scores == right
            before = (same & (order < right_class[:, None])).sum(1)
            counts.append(torch.stack([(scores > right).sum(1), same.sum(1) - 1, before, scores.argmax(1)]))
    return ClassRanks(*torch.cat(counts, dim=1))
