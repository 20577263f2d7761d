"""CLIM against loops over pairs and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from losses import ClimLoss, clim

B, N, M, D = 4, 3, 5, 6


def case(seed=0):
    g = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(B, n, D, generator=g, dtype=torch.float64), dim=-1) for n in (N, M))
    valid = torch.arange(M) < torch.tensor([5, 1, 3, 4])[:, None]
    return image.requires_grad_(), text.masked_fill(~valid[..., None], math.nan).requires_grad_(), valid


def agreement(patches, words):
    def phi(x):
        return x if x > 0 else 0.1 * x

    image_side = sum(max(phi(v @ t) for t in words) for v in patches) / len(patches)
    return image_side + sum(max(phi(v @ t) for v in patches) for t in words) / len(words)


def oracle(image, text, valid, margin):
    r = [[agreement(list(image[i]), list(text[j][valid[j]])) for j in range(B)] for i in range(B)]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        for j in range(B):
            if i != j:
                total = total + (margin + r[i][j] - r[i][i]).clamp(min=0) + (margin + r[i][j] - r[j][j]).clamp(min=0)
    return total


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("limit", [1, 2 * N * B * M, 2**22])
def test_is_the_equations(monkeypatch, margin, limit):
    monkeypatch.setattr(clim, "PAIRS", limit)
    image, text, valid = case()
    value, expected = ClimLoss(margin)(image, text, valid), oracle(image, text, valid, margin)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    grads = torch.autograd.grad(value, (image, text))
    for ours, theirs in zip(grads, torch.autograd.grad(expected, (image, text)), strict=True):
        torch.testing.assert_close(ours, theirs.nan_to_num(0.0), rtol=1e-9, atol=1e-12)
    assert not grads[1][~valid].any()


def test_one_image_has_no_negatives():
    image, text, valid = case()
    assert ClimLoss()(image[:1], text[:1], valid[:1]) == 0


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_arguments_and_inputs():
    with pytest.raises(ValueError, match="margin must be 0 or more, got -1"):
        ClimLoss(-1)
    with pytest.raises(ValueError, match=r"got \[4, 3, 6\] and \[4, 5, 5\]"):
        ClimLoss()(case()[0], torch.zeros(4, 5, 5))
