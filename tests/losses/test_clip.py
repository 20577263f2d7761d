from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from losses import ClipLoss


@pytest.fixture
def vectors():
    g = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(7, 5, generator=g, dtype=torch.float64), dim=-1) for _ in range(2))
    return image, text, torch.tensor(9.0, dtype=torch.float64)


def by_hand(vectors, keep=None):
    image, text, scale = vectors
    z = scale * image @ text.T
    z = z if keep is None else z.masked_fill(~keep, -math.inf)
    target = torch.arange(len(z))
    return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2


def agree(ours, expected, leaves):
    torch.testing.assert_close(ours, expected)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_is_symmetric_cross_entropy(vectors):
    leaves = [x.requires_grad_() for x in vectors]
    agree(ClipLoss()(*leaves), by_hand(leaves), leaves)


def test_invalid_rows_are_as_if_absent(vectors):
    image, text, scale = vectors
    valid = torch.tensor([True, False, True, True, False, True, True])
    leaves = [x.requires_grad_() for x in (image.clone(), text.clone(), scale)]
    junk = torch.where(valid, 0.0, math.nan)[:, None]
    agree(
        ClipLoss()(leaves[0] + junk, leaves[1] - junk, leaves[2], valid),
        by_hand((leaves[0][valid], leaves[1][valid], leaves[2])),
        leaves,
    )


def test_equal_texts_are_no_negatives(vectors):
    leaves = [x.requires_grad_() for x in vectors]
    text_id = torch.tensor([4, 2, 4, 0, 1, 2, 4])
    keep = (text_id[:, None] != text_id) | torch.eye(7, dtype=torch.bool)
    agree(ClipLoss()(*leaves, text_id=text_id), by_hand(leaves, keep), leaves)


def test_blocks_of_images(vectors):
    leaves = [x.requires_grad_() for x in vectors]
    block = torch.arange(7) // 3
    agree(ClipLoss(negatives=3)(*leaves), by_hand(leaves, block[:, None] == block), leaves)


def test_one_image_has_nothing_to_be_told_from(vectors):
    image, text, scale = vectors
    assert ClipLoss()(image[:1], text[:1], scale).item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4, 2), 1.0), r"both be \[B, D\], got \[3, 2\] and \[4, 2\]"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0, torch.ones(2, dtype=torch.bool)), r"valid must be \[B\] = \[3\]"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0, torch.ones(3)), "valid must be bool"),
        ((torch.zeros(3, 2), torch.zeros(3, 2), 1.0, None, torch.ones(3, 1)), "text_id must be"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_inputs(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipLoss()(*arguments)


def test_bad_scope():
    with pytest.raises(ValueError, match='negatives must be "all", "rank" or a positive number of images, got -1'):
        ClipLoss(negatives=-1)
