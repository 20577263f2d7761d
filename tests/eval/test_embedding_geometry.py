"""Geometry of embeddings against loops, and at the ends of the scales."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from eval.metrics.embedding_geometry import alignment, effective_rank, modality_gap, uniformity


def test_against_loops():
    torch.manual_seed(0)
    x, y = (normalize(torch.randn(7, 5, dtype=torch.float64), dim=1) for _ in range(2))
    aligned = sum(float(((a - b) ** 2).sum()) for a, b in zip(x, y, strict=True)) / 7
    pairs = [math.exp(-2 * float(((a - b) ** 2).sum())) for i, a in enumerate(x) for b in x[i + 1 :]]
    means = [[sum(float(row[d]) for row in rows) / 7 for d in range(5)] for rows in (x, y)]
    assert alignment(x, y) == pytest.approx(aligned)
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    assert modality_gap(x, y) == pytest.approx(math.dist(*means))
    shares = torch.linalg.eigvalsh(x.T @ x).clamp(min=0).sqrt()
    shares = shares / shares.sum()
    assert effective_rank(x) == pytest.approx(math.exp(-sum(float(s) * math.log(float(s)) for s in shares)), rel=1e-6)


def test_ends_of_the_scales():
    same, axes = torch.ones(4, 4) / 2, torch.eye(4)
    assert alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0)
    assert modality_gap(same, -same) == pytest.approx(2)
    assert effective_rank(same) == pytest.approx(1, abs=1e-3)
    assert effective_rank(axes) == pytest.approx(4)
