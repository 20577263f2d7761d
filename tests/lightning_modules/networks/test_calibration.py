"""Token calibration: the equations token by token, inert padding, and how alike the outputs are at the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from lightning_modules.networks import TokenCalibration
from lightning_modules.networks.calibration import attention_perplexity, mean_cosine

B, N, J, D = 3, 7, 4, 15


@pytest.fixture
def calibration():
    torch.manual_seed(0)
    calibration = TokenCalibration(D, J, gain=3.0).double()
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return calibration


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(B, N, D, generator=g, dtype=torch.float64)
    return x, torch.arange(N) < torch.tensor([7, 1, 4])[:, None]


def oracle(calibration, tokens):
    """The outputs and the attention for one image."""
    norm, first, _, last = calibration.score
    scores = []
    for x in tokens:
        h = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        h = first.weight @ h + first.bias
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        scores.append(calibration.gain * (last.weight @ h + last.bias))
    rows, outputs = [], []
    for j in range(J):
        shares = torch.stack([torch.exp(score[j]) for score in scores])
        shares = shares / shares.sum()
        out = sum(a * x for a, x in zip(shares, tokens, strict=True))
        rows.append(shares)
        outputs.append(out / out.norm())
    return torch.stack(outputs), torch.stack(rows)


def test_is_the_equations(calibration, inputs):
    x, valid = inputs
    x.requires_grad_()
    found = calibration(x, valid)
    leaves = [x, *calibration.parameters()]
    weights = torch.randn(B, J, D, dtype=torch.float64)
    wanted = []
    for b in range(B):
        tokens, attention = oracle(calibration, x[b][valid[b]])
        wanted.append(tokens)
        torch.testing.assert_close(found.tokens[b], tokens)
        torch.testing.assert_close(found.attention[b][:, valid[b]], attention)
    grads = torch.autograd.grad((found.tokens * weights).sum(), leaves)
    for ours, theirs in zip(grads, torch.autograd.grad((torch.stack(wanted) * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_padding_is_inert(calibration, inputs):
    x, valid = inputs
    clean = calibration(x, valid)
    poisoned = x.masked_fill(~valid[..., None], math.nan).requires_grad_()
    found = calibration(poisoned, valid)
    torch.testing.assert_close(found, clean, rtol=0, atol=0)
    found.tokens.square().sum().backward()
    assert poisoned.grad is not None
    assert not poisoned.grad[~valid].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in calibration.parameters())


def test_rows_sum_to_one_and_order_does_not_matter(calibration, inputs):
    x, _ = inputs
    found = calibration(x)
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(B, J, dtype=torch.float64))
    torch.testing.assert_close(calibration(x.flip(1)).tokens, found.tokens)


def test_default_start_collapses_and_a_larger_gain_does_not():
    """Tokens of one image, with pairwise cosines of about a half, as CLIP's patches have."""
    torch.manual_seed(0)
    x = normalize(torch.randn(2, 1, 512) + torch.randn(2, 196, 512), dim=-1)
    alike = {}
    for gain in (1.0, 40.0):
        alike[gain] = mean_cosine(TokenCalibration(512, 39, gain)(x).tokens).item()
    assert alike[1.0] > 0.999
    assert alike[40.0] < 0.9


def test_sizes_are_the_published_ones():
    assert sum(p.numel() for p in TokenCalibration(512, 39).parameters()) == 57368
    assert sum(p.numel() for p in TokenCalibration(768, 51).parameters()) == 127048


def test_numbers_of_diversity():
    tokens = normalize(torch.randn(3, 4, 5), dim=-1)
    pairs = [tokens[b, i] @ tokens[b, j] for b in range(3) for i in range(4) for j in range(4) if i != j]
    torch.testing.assert_close(mean_cosine(tokens), torch.stack(pairs).mean())
    assert mean_cosine(tokens[:, :1]) == 1
    torch.testing.assert_close(attention_perplexity(torch.tensor([[0.25] * 4, [0, 1, 0, 0]])), torch.tensor([4.0, 1.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((8, 0), "tokens must be at least 1, got 0"), ((8, 2, 0.0), "gain must be positive and finite, got 0.0")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenCalibration(*arguments)
