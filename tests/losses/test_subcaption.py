"""Subcaption-aggregated patches against loops over slots and images, and weights that never fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from losses import SoftmaxWeights, SparseWeights, SubcaptionLoss, TopWeights
from losses.core import pairs
from losses.subcaption import aggregate, patch_weights

B, M, N, D = 5, 4, 7, 6
COUNT = torch.tensor([4, 1, 0, 3, 3])  # sentences per image: slot 3 is filled by image 0 alone
KINDS = [SparseWeights(), SparseWeights(0.4), SoftmaxWeights(), SoftmaxWeights(0.5), TopWeights(3), TopWeights(99)]


@pytest.fixture(params=[3, 2048])
def tiles(request, monkeypatch):
    monkeypatch.setitem(pairs.TILE, "cpu", request.param)


def case(seed=0):
    """Patches, and sentences of which the padded ones are NaN."""
    g = torch.Generator().manual_seed(seed)
    patches, sentences = (normalize(torch.randn(B, n, D, generator=g, dtype=torch.float64), dim=-1) for n in (N, M))
    valid = torch.arange(M) < COUNT[:, None]
    return patches.requires_grad_(), sentences.masked_fill(~valid[..., None], math.nan).requires_grad_(), valid


def weights_of(kind, s):
    """Of one sentence, a loop over its patches."""
    if isinstance(kind, SoftmaxWeights):
        shares = [torch.exp(x / kind.temperature) for x in s]
    elif isinstance(kind, TopWeights):
        best = sorted(s.tolist(), reverse=True)[: kind.patches]
        shares = [torch.ones(()) if x.item() in best else torch.zeros(()) for x in s]
    else:
        low, high = min(s), max(s)
        sigma = 1 / len(s) if kind.threshold is None else kind.threshold
        stretched = [(x - low) / (high - low + 1e-6) for x in s]
        shares = [x if x >= sigma else torch.zeros(()) for x in stretched]
    return [share / sum(shares) for share in shares]


def region_of(kind, patches, sentence):
    alpha = weights_of(kind, [sentence @ x for x in patches] if len(patches) == 1 else patches @ sentence)
    region = sum(a * x for a, x in zip(alpha, patches, strict=True))
    return region / region.norm()


def oracle(kind, patches, sentences, valid, scale, text_id=None):
    terms = []
    for i in range(valid.shape[1]):
        images = [b for b in range(len(valid)) if valid[b, i]]
        if len(images) < 2:
            continue
        regions = {b: region_of(kind, patches[b], sentences[b, i]) for b in images}

        def met(a, b, i=i):
            return a == b or text_id is None or text_id[a, i] != text_id[b, i]

        total = torch.zeros((), dtype=torch.float64)
        for b in images:
            positive = scale * regions[b] @ sentences[b, i]
            row = [torch.exp(scale * regions[b] @ sentences[a, i]) for a in images if met(a, b)]
            col = [torch.exp(scale * regions[a] @ sentences[b, i]) for a in images if met(a, b)]
            total = total + (torch.log(sum(row)) + torch.log(sum(col))) / 2 - positive
        terms.append(total / len(images))
    return sum(terms) / len(terms)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{type(k).__name__} {vars(k)}")
def test_is_the_equations(kind, ids):
    patches, sentences, valid = case()
    text_id = torch.randint(0, 2, (B, M), generator=torch.Generator().manual_seed(3)) * 2**40 if ids else None
    scale = torch.tensor([6.0], dtype=torch.float64, requires_grad=True)
    leaves = (patches, sentences, scale)
    value = SubcaptionLoss()(aggregate(patches, sentences, valid, kind), sentences, valid, scale, text_id)
    expected = oracle(kind, patches, sentences, valid, scale, text_id)
    torch.testing.assert_close(value, expected.squeeze(), rtol=1e-10, atol=0)
    grads = torch.autograd.grad(value, leaves)
    for ours, theirs in zip(grads, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    assert not grads[1][~valid].any()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{type(k).__name__} {vars(k)}")
@pytest.mark.parametrize("patches", [1, 2, 9])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_finite_and_sum_to_one(kind, patches, spread, dtype):
    similarity = 0.3 + spread * torch.randn(2, 3, patches, generator=torch.Generator().manual_seed(1)).to(dtype)
    similarity.requires_grad_()
    weights = kind(similarity)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=dtype))
    assert (weights >= 0).all()
    if weights.requires_grad:
        (grad,) = torch.autograd.grad((weights * torch.arange(patches)).sum(), similarity)
        assert grad.isfinite().all()
    if spread == 0:
        uneven = isinstance(kind, TopWeights) and kind.patches < patches
        assert uneven or weights.allclose(torch.full_like(weights, 1 / patches))


def test_sparse_weights_drop_what_is_below_the_threshold():
    weights = SparseWeights(0.5)(torch.tensor([0.0, 0.4, 0.5001, 1.0]))
    assert weights[:2].tolist() == [0, 0]
    assert weights[2:].tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-4)
    assert (SparseWeights()(torch.tensor([0.0, 0.2, 0.3, 1.0])) > 0).tolist() == [False, False, True, True]


def test_top_weights_share_out_one_among_the_best():
    similarity = torch.arange(12.0)
    assert TopWeights(1)(similarity).tolist() == [0] * 11 + [1]
    assert TopWeights()(similarity).tolist() == [0] * 4 + [1 / 8] * 8


def test_one_sentence_one_patch_all_alike():
    """The worst case of the sparse weights goes through with finite gradients."""
    for images, patches in ((3, 1), (3, 4), (1, 4)):
        patch_vectors = torch.full((images, patches, D), D**-0.5, requires_grad=True)
        sentence = torch.full((images, 1, D), D**-0.5, requires_grad=True)
        valid = torch.ones(images, 1, dtype=torch.bool)
        regions = aggregate(patch_vectors, sentence, valid, SparseWeights())
        value = SubcaptionLoss()(regions, sentence, valid, 10.0)
        assert value.item() == pytest.approx(math.log(3) if images == 3 else 0.0, abs=1e-5)
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (patch_vectors, sentence)))


def test_padded_sentences_weigh_all_patches_alike():
    patches, sentences, valid = case()
    weights = patch_weights(patches, sentences, valid, SparseWeights())
    torch.testing.assert_close(weights[~valid], torch.full((int((~valid).sum()), N), 1 / N, dtype=torch.float64))


def test_wider_padding_changes_nothing():
    patches, sentences, valid = case()

    def loss(sentences, valid):
        return SubcaptionLoss()(aggregate(patches, sentences, valid, SparseWeights()), sentences, valid, 5.0)

    wide = torch.cat([sentences, torch.full_like(sentences, math.inf)], 1)
    torch.testing.assert_close(
        loss(wide, torch.cat([valid, valid & False], 1)), loss(sentences, valid), rtol=1e-14, atol=0
    )


def test_sentences_of_one_image_are_no_negatives():
    """Turning what stands in one slot changes nothing of the other's term."""
    patches, sentences, valid = case()
    valid = valid & (torch.arange(M) < 2)
    joint = SubcaptionLoss()(aggregate(patches, sentences, valid, SoftmaxWeights()), sentences, valid, 5.0)
    single = []
    for i in range(2):
        slot = valid & (torch.arange(M) == i)
        single.append(SubcaptionLoss()(aggregate(patches, sentences, slot, SoftmaxWeights()), sentences, slot, 5.0))
    torch.testing.assert_close(joint, sum(single) / 2)


@pytest.mark.parametrize("shape", [(3, 2, 4), (0, 2, 4), (3, 0, 4)])
def test_no_sentence_is_zero_on_the_graph(shape):
    regions, sentences = (torch.randn(shape, requires_grad=True) for _ in range(2))
    value = SubcaptionLoss()(regions, sentences, torch.zeros(shape[:2], dtype=torch.bool), 5.0)
    assert value.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(value, (regions, sentences)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseWeights(1.5), r"threshold must lie in \[0, 1\], got 1.5"),
        (lambda: SoftmaxWeights(0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: TopWeights(0), "patches must be at least 1, got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": torch.zeros(5, 4, 7)}, r"both be \[B, M, D\], got \[5, 4, 6\] and \[5, 4, 7\]"),
        ({"valid": torch.zeros(5, 3, dtype=torch.bool)}, r"valid must be \[B, M\] = \[5, 4\], got \[5, 3\]"),
        ({"valid": torch.zeros(5, 4)}, "valid must be bool"),
        ({"text_id": torch.zeros(5)}, "text_id must be"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs(changes, message):
    inputs = {"regions": torch.zeros(5, 4, 6), "sentences": torch.zeros(5, 4, 6), "valid": COUNT[:, None] > 0}
    inputs["valid"] = inputs["valid"].expand(-1, 4)
    with pytest.raises(ValueError, match=message):
        SubcaptionLoss()(**(inputs | changes), scale=1.0)
