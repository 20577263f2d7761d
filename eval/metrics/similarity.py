"""Cosine similarity for ranking: checked unit vectors, multiplied in true fp32.

In bf16 or fp16 nine of ten queries tie with their answer, and R@1 then depends on how the ties are broken; TF32 and
autocast lose the same precision. Embeddings may come from a low-precision model: they are converted to fp32,
normalised again, and only then multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

UNIT_TOLERANCE = 0.05  # bf16 and fp16 vectors are unit to within 1 %; raw features are not


def unit_rows(name: str, rows: Float[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
    """Return ``rows`` detached, in fp32 and of unit norm.

    Raises ValueError naming ``name`` if a row is not finite (a NaN would be ranked silently) or not a unit vector.
    """
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a matrix [rows, width], got shape {tuple(rows.shape)}")
    rows = rows.detach().float()
    norms = rows.norm(dim=1)
    bad = ~rows.isfinite().all(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(f"{name} must be finite, got NaN or infinity in {int(bad.sum())} rows, first {first}")
    bad = (norms - 1).abs() > UNIT_TOLERANCE
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(f"{name} must be unit vectors, got norm {float(norms[first]):.4g} in row {first}")
    return rows / norms[:, None]


def check_index(name: str, index: Int[Tensor, " M"], size: int) -> None:
    """Raise ValueError, calling the numbers ``name``, unless all of them lie in [0, ``size``)."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(f"{name} must lie in [0, {size}), got {int(index.min())} to {int(index.max())}")


@contextmanager
def exact_fp32(device: torch.device) -> Iterator[None]:
    """Compute fp32 products in fp32: no autocast, no TF32 on CUDA, no bf16 in oneDNN. Settings are restored."""
    onednn: Any = torch.backends.mkldnn  # its settings are set at run time, type checkers do not know them
    products = (torch.backends.cuda.matmul, onednn.matmul)
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision
