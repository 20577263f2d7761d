"""Geometry of embeddings on the sphere: numbers that show collapse, drift and the modality gap early.

Alignment and uniformity (Wang and Isola, arXiv 2005.10242): how far positives are apart, and how evenly embeddings
spread; lower is better for both. Modality gap (Liang et al., arXiv 2203.02053): distance of the two means. Effective
rank (Roy and Vetterli, 2007): exponential of the entropy of the singular values, from 1 (collapsed to a line) to the
width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def alignment(first: Float[Tensor, "N D"], second: Float[Tensor, "N D"]) -> float:
    """Mean squared distance of unit vectors that belong together, row by row; in [0, 4]."""
    return (first - second).square().sum(1).mean().item()


def uniformity(rows: Float[Tensor, "N D"]) -> float:
    """log mean exp(-2 d²) over the pairs of different rows; 0 where all are one point. NaN below two rows."""
    distances = torch.pdist(rows.double())
    return distances.square().mul(-2).exp().mean().log().item()


def modality_gap(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"]) -> float:
    """Distance between the mean of one kind of unit vectors and the mean of another; in [0, 2]."""
    return (first.mean(0) - second.mean(0)).norm().item()


def effective_rank(rows: Float[Tensor, "N D"]) -> float:
    """exp of the entropy of the singular values as shares of their sum; at most min(N, D)."""
    sizes = torch.linalg.svdvals(rows.double())
    shares = sizes / sizes.sum()
    return torch.special.entr(shares).sum().exp().item()
