"""An encoder on larger images: positions by hand and against torch, weights shared, timm's own way close by."""

import pytest
import torch

from lightning_modules.networks import DualEncoder
from lightning_modules.networks.image_positions import stretch_grid
from tests.helpers.tiny_run import TINY


def cubic(x):
    """Keys' kernel with a = -0.75, torch's."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_positions_are_bicubic_between_the_cells_centres():
    old, new = 3, 5
    table = torch.randn(1, 1 + old * old, 2, dtype=torch.float64)
    found = stretch_grid(table, new).double()
    assert torch.equal(found[:, 0], table[:, 0])
    grid = table[0, 1:].view(old, old, 2)
    for i in range(new):
        for j in range(new):
            y, x = ((n + 0.5) * old / new - 0.5 for n in (i, j))
            expected = torch.zeros(2, dtype=torch.float64)
            for r in range(-3, old + 3):
                for c in range(-3, old + 3):
                    cell = grid[min(max(r, 0), old - 1), min(max(c, 0), old - 1)]
                    expected += cubic(y - r) * cubic(x - c) * cell
            torch.testing.assert_close(found[0, 1 + i * new + j], expected, atol=1e-6, rtol=1e-5)


def test_the_same_grid_gives_the_same_features_and_a_larger_one_shares_all_other_weights():
    torch.manual_seed(0)
    encoder = DualEncoder(TINY).eval()
    pixels = torch.randn(2, 3, 16, 16)
    same = encoder.with_grid(2).encode_image(pixels)
    for one, other in zip(same, encoder.encode_image(pixels), strict=True):
        torch.testing.assert_close(one, other)
    larger = encoder.with_grid(5)
    assert larger.config.image_size == 40
    assert not larger.training
    assert larger.encode_image(torch.randn(1, 3, 40, 40)).dense.shape == (1, 16, 5, 5)
    own = {name: weight.data_ptr() for name, weight in encoder.named_parameters()}
    differ = [name for name, weight in larger.named_parameters() if weight.data_ptr() != own[name]]
    assert differ == ["image_tower.pos_embed"]
    assert not [name for name, weight in larger.named_buffers() if weight.is_meta]
    assert encoder.encode_image(pixels).dense.shape == (2, 16, 2, 2)  # untouched


def test_a_side_below_one_is_refused():
    with pytest.raises(ValueError, match="side must be at least 1 patch, got 0"):
        DualEncoder(TINY).with_grid(0)
