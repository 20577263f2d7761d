"""Text-conditioned pooling: the published equations, head by head, and where each text looks."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks import TextConditionedPooling

B, K, P, D, HEADS = 2, 3, 9, 16, 4


@pytest.fixture
def pooling():
    torch.manual_seed(0)
    pooling = TextConditionedPooling(D, HEADS).double()
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return pooling


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    queries, patches = (torch.randn(B, n, D, generator=generator, dtype=torch.float64) for n in (K, P))
    return torch.nn.functional.normalize(queries, dim=-1), torch.nn.functional.normalize(patches, dim=-1)


def oracle(pooling, query, patches):
    """One text over one image's patches: the pooled vector, and the mean attention of the heads."""
    (wq, wk, wv), (bq, bk, bv) = pooling.attn.in_proj_weight.split(D), pooling.attn.in_proj_bias.split(D)
    q, k, v = wq @ query + bq, patches @ wk.T + bk, patches @ wv.T + bv
    size = D // HEADS
    heads = [slice(h * size, (h + 1) * size) for h in range(HEADS)]
    attention = torch.stack([(k[:, h] @ q[h] / size**0.5).softmax(0) for h in heads])
    o = pooling.attn.out_proj.weight @ torch.cat([a @ v[:, h] for a, h in zip(attention, heads, strict=True)])
    o = o + pooling.attn.out_proj.bias
    x = (o - o.mean()) / (o.var(correction=0) + 1e-5).sqrt() * pooling.norm.weight + pooling.norm.bias
    x = pooling.mlp[0].weight @ x + pooling.mlp[0].bias
    x = x * torch.sigmoid(1.702 * x)
    y = o + pooling.mlp[2].weight @ x + pooling.mlp[2].bias
    return y / y.norm(), attention.mean(0)


def test_pooled_vectors_and_attention(pooling, inputs):
    queries, patches = inputs
    with torch.no_grad():
        pooled, attention = pooling(queries, patches), pooling.attention(queries, patches)
        for b in range(B):
            for k in range(K):
                expected = oracle(pooling, queries[b, k], patches[b])
                torch.testing.assert_close(pooled[b, k], expected[0])
                torch.testing.assert_close(attention[b, k], expected[1])
    torch.testing.assert_close(attention.sum(-1), torch.ones(B, K, dtype=torch.float64))


def test_nothing_but_image_content(pooling, inputs):
    """There is no way around the patches: where all are alike, every text pools the same vector."""
    queries, patches = inputs
    alike = patches[:, :1].expand(-1, P, -1)
    pooled = pooling(queries, alike)
    torch.testing.assert_close(pooled, pooled[:, :1].expand(-1, K, -1))


def test_order_of_patches_does_not_matter(pooling, inputs):
    queries, patches = inputs
    torch.testing.assert_close(pooling(queries, patches.flip(1)), pooling(queries, patches))


def test_start(pooling):
    fresh = TextConditionedPooling(D, HEADS)
    assert fresh.scale.item() == pytest.approx(1 / 0.07)
    assert fresh.scale.shape == (1,)
    assert not fresh.attn.in_proj_bias.any()
    bound = (6 / (D + 3 * D)) ** 0.5  # xavier, uniform
    assert fresh.attn.in_proj_weight.abs().max() <= bound
    assert fresh.attn.in_proj_weight.abs().max() > 0.9 * bound


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiple of heads = 8, got 12"):
        TextConditionedPooling(12)


def test_transparent_start_is_attention_by_similarity(inputs):
    queries, patches = inputs
    block = TextConditionedPooling(D, 1).double()
    block.start_transparent(3.0)
    weights = (9 * queries @ patches.transpose(1, 2) / D**0.5).softmax(-1)
    torch.testing.assert_close(block.attention(queries, patches), weights)
    torch.testing.assert_close(block(queries, patches), torch.nn.functional.normalize(weights @ patches, dim=-1))
    with pytest.raises(ValueError, match="gain must be above 0, got 0"):
        block.start_transparent(0)
