"""Checked unit vectors and true fp32 products."""

import pytest
import torch

from eval.metrics.similarity import exact_fp32, unit_rows


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(value):
    rows = torch.eye(4)
    rows[2, 1] = value
    with pytest.raises(ValueError, match="patches must be finite, got NaN or infinity in 1 rows, first 2"):
        unit_rows("patches", rows)


def test_raw_features_are_refused():
    with pytest.raises(ValueError, match=r"patches must be unit vectors, got norm 3 in row 1"):
        unit_rows("patches", torch.eye(3) * torch.tensor([[1.0], [3.0], [1.0]]))
    with pytest.raises(ValueError, match="got norm 0 in row 0"):
        unit_rows("patches", torch.zeros(1, 3))


def test_low_precision_is_widened_and_normalised_again():
    rows = torch.nn.functional.normalize(torch.randn(64, 96, generator=torch.Generator().manual_seed(0)), dim=1)
    coarse = rows.bfloat16()
    assert (coarse.float().norm(dim=1) - 1).abs().max() > 1e-4
    fine = unit_rows("rows", coarse)
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine.norm(dim=1), torch.ones(64), atol=1e-6, rtol=0)


def test_products_are_exact_under_autocast():
    rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert (rows @ rows.T).dtype == torch.bfloat16
        with exact_fp32(rows.device):
            assert (rows @ rows.T).dtype == torch.float32
        assert (rows @ rows.T).dtype == torch.bfloat16


@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_tf32_is_off_inside_and_back_afterwards(level):
    before = torch.get_float32_matmul_precision()
    products = torch.backends.cuda.matmul
    try:
        torch.set_float32_matmul_precision(level)
        outside = products.fp32_precision
        with exact_fp32(torch.device("cpu")):
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == outside
        assert torch.get_float32_matmul_precision() == level
    finally:
        torch.set_float32_matmul_precision(before)
