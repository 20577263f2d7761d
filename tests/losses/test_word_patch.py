"""Word-patch reconstruction against loops over images and tokens, and what must hold of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from losses import WordPatchLoss, word_patch

B, N, M, D = 4, 5, 6, 8


def case(padded=True, seed=0):
    """Unit vectors; some text tokens are padded with NaN, image 1 has one text token only."""
    g = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(B, n, D, generator=g, dtype=torch.float64), dim=-1) for n in (N, M))
    valid = torch.arange(M) < torch.tensor([6, 1, 4, 2])[:, None] if padded else torch.ones(B, M, dtype=torch.bool)
    text = text.masked_fill(~valid[..., None], math.nan)
    return image.requires_grad_(), text.requires_grad_(), valid


def attended(query, keys, values, temperature):
    shares = [math.e ** (query @ key / temperature) for key in keys]
    return sum(s * value for s, value in zip(shares, values, strict=True)) / sum(shares)


def contrast(tokens, rebuilt, temperature, symmetric):
    """One image, one direction."""
    rebuilt = [r / r.norm() for r in rebuilt]
    total = torch.zeros((), dtype=torch.float64)
    for j, token in enumerate(tokens):
        match = torch.exp(token @ rebuilt[j] / temperature)
        term = -torch.log(match / sum(torch.exp(token @ r / temperature) for r in rebuilt))
        if symmetric:
            term = (term - torch.log(match / sum(torch.exp(t @ rebuilt[j] / temperature) for t in tokens))) / 2
        total = total + term
    return total / len(tokens)


def oracle(image, text, valid, attention_temperature=0.1, temperature=0.1, rebuild="cross", symmetric=True, maps=None):
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(image)):
        tokens = list(image[b]), [text[b, k] for k in range(M) if valid[b, k]]
        rebuilt = []
        for side, (targets, sources) in enumerate((tokens, tokens[::-1])):
            queries, keys, values = targets, sources, sources
            if maps is not None:
                q, k, v = maps[side]
                queries, keys = ([normalize(m @ x, dim=0) for x in xs] for m, xs in ((q, targets), (k, sources)))
                values = [v @ x for x in sources]
            rebuilt.append([attended(x, keys, values, attention_temperature) for x in queries])
        if rebuild == "cycle":  # what the other modality's tokens made of this one's
            rebuilt = [
                [attended(x, sources, reconstructions, attention_temperature) for x in targets]
                for targets, sources, reconstructions in ((*tokens, rebuilt[1]), (*tokens[::-1], rebuilt[0]))
            ]
        for targets, reconstructions in zip(tokens, rebuilt, strict=True):
            total = total + contrast(targets, reconstructions, temperature, symmetric)
    return total / len(image)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"symmetric": False},
        {"rebuild": "cycle"},
        {"attention_temperature": 0.3, "temperature": 0.07},
        {"rebuild": "cycle", "symmetric": False, "temperature": 0.5},
    ],
)
def test_is_the_equations(settings, padded):
    image, text, valid = case(padded)
    value = WordPatchLoss(**settings)(image, text, valid)
    grads = torch.autograd.grad(value, (image, text))
    expected = oracle(image, text, valid, **settings)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(grads, torch.autograd.grad(expected, (image, text)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert not grads[1][~valid].any()


def test_projections_start_as_cosines_and_learn():
    image, text, valid = case()
    loss = WordPatchLoss(projected=D).double()
    torch.testing.assert_close(loss(image, text, valid), WordPatchLoss()(image, text, valid))
    assert loss.from_text is not None
    assert loss.from_image is not None
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    maps = [[m.query.weight, m.key.weight, m.value.weight] for m in (loss.from_text, loss.from_image)]
    value, expected = loss(image, text, valid), oracle(image, text, valid, maps=maps)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    leaves = list(loss.parameters())
    for ours, theirs in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("rebuild", ["cross", "cycle"])
def test_parts_are_the_whole(monkeypatch, rebuild):
    image, text, valid = case()
    loss = WordPatchLoss(rebuild=rebuild)
    whole = loss(image, text, valid)
    expected = torch.autograd.grad(whole, (image, text))
    monkeypatch.setattr(word_patch, "PAIRS", 3 * (N + M) ** 2)  # parts of 3 and 1 images
    parts = loss(image, text, valid)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=0)
    for ours, theirs in zip(torch.autograd.grad(parts, (image, text)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_equal_tokens_cannot_be_told_apart():
    same = normalize(torch.ones(2, 1, D, dtype=torch.float64), dim=-1)
    value = WordPatchLoss()(same.expand(-1, N, -1), same.expand(-1, M, -1))
    torch.testing.assert_close(value, torch.tensor(math.log(N) + math.log(M), dtype=torch.float64))


def test_tokens_that_match_cost_nothing():
    tokens = torch.eye(D, dtype=torch.float64)[None, :N]
    assert WordPatchLoss(0.02, 0.02)(tokens, tokens) < 1e-12


def test_one_token_each_is_zero():
    image, text, _ = case(padded=False)
    assert WordPatchLoss()(image[:, :1], text[:, :1]).abs() < 1e-12


def test_attention_is_what_the_loss_uses():
    image, text, valid = case()
    at_text, at_image = WordPatchLoss(0.2).attention(image, text, valid)
    torch.testing.assert_close(at_text.sum(-1), torch.ones(B, N, dtype=torch.float64))
    torch.testing.assert_close(at_image.sum(-1), torch.ones(B, M, dtype=torch.float64))
    assert not at_text.masked_select(~valid[:, None, :]).any()
    expected = torch.stack([image[2, 3] @ text[2, k] / 0.2 for k in range(4)]).softmax(0)
    torch.testing.assert_close(at_text[2, 3, :4], expected)


def test_images_without_text_do_not_count():
    image, text, valid = case()
    valid[3] = False
    value = WordPatchLoss()(image, text, valid)
    torch.testing.assert_close(value, WordPatchLoss()(image[:3], text[:3], valid[:3]))
    nothing = WordPatchLoss()(image, text, torch.zeros_like(valid))
    grads = torch.autograd.grad(nothing, (image, text))
    assert nothing == 0
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"attention_temperature": math.nan}, "attention_temperature must be positive"),
        ({"rebuild": "mean"}, 'rebuild must be "cross" or "cycle", got \'mean\''),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPatchLoss(**arguments)


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs():
    image, text, valid = case()
    with pytest.raises(ValueError, match=r"got \[4, 5, 8\] and \[3, 6, 8\]"):
        WordPatchLoss()(image, text[:3])
    with pytest.raises(ValueError, match=r"text_valid must be bool \[B, M\] = \[4, 6\]"):
        WordPatchLoss()(image, text, valid[:, :2])
