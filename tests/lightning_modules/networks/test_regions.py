"""RoIAlign over patch tokens: whole image, single patches, borders, gradients."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks import pool_regions

SIDE, D = 4, 5


@pytest.fixture
def dense():
    return torch.randn(2, SIDE * SIDE, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def as_map(tokens):
    """Patch tokens of a square grid, row by row, as a map."""
    return tokens.mT.unflatten(2, (SIDE, SIDE))


def direction(vector):
    return vector / vector.norm(dim=-1, keepdim=True)


def test_the_whole_picture_is_the_mean_token(dense):
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    torch.testing.assert_close(
        pool_regions(as_map(dense), boxes, torch.tensor([1, 0])), direction(dense.mean(1)).flip(0)
    )


def test_the_box_of_a_patch_is_its_token(dense):
    """Patches count row by row, x before y, and the box says which image."""
    for image in range(2):
        for p in range(SIDE * SIDE):
            y, x = divmod(p, SIDE)
            box = torch.tensor([[x, y, x + 1, y + 1]]) / SIDE
            torch.testing.assert_close(
                pool_regions(as_map(dense), box, torch.tensor([image]))[0], direction(dense[image, p])
            )


def test_a_box_of_two_by_two_patches_is_their_mean(dense):
    got = pool_regions(as_map(dense), torch.tensor([[0.25, 0.5, 0.75, 1.0]]), torch.tensor([0]))
    torch.testing.assert_close(got[0], direction(dense[0, [9, 10, 13, 14]].mean(0)))


def test_small_boxes_interpolate(dense):
    """Half a patch wide, between two patch centres: the mean of both, bilinearly."""
    box = torch.tensor([[1.0 - 0.25, 0.25, 1.0 + 0.25, 0.75]]) / SIDE
    expected = direction((dense[0, 0] + dense[0, 1]) / 2)
    torch.testing.assert_close(pool_regions(as_map(dense), box, torch.tensor([0]))[0], expected)


def test_pooling_comes_before_normalising(dense):
    """A patch of larger norm weighs more."""
    dense[0, 0] *= 100
    got = pool_regions(as_map(dense), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]))
    assert got[0] @ direction(dense[0, 0]) > 0.99


def test_no_box_and_half_precision(dense):
    assert pool_regions(as_map(dense), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0, D)
    half = pool_regions(as_map(dense.half()), torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([0]))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(1))


def test_gradient_reaches_only_the_patches_inside(dense):
    dense.requires_grad_()
    pool_regions(as_map(dense), torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1])).sum().backward()
    touched = dense.grad.abs().amax(-1) > 0
    assert touched.nonzero().tolist() == [[1, 0], [1, 1], [1, 4], [1, 5]]


def test_a_grid_may_have_more_columns_than_rows():
    """Of 2 rows and 4 columns, the right half is the last two columns."""
    dense = torch.randn(1, D, 2, 4)
    right = pool_regions(dense, torch.tensor([[0.5, 0.0, 1.0, 1.0]]), torch.tensor([0]))[0]
    torch.testing.assert_close(right, direction(dense[0, :, :, 2:].mean((1, 2))))
