"""Cosine similarity fit for ranking: checked unit vectors, multiplied in true fp32.

A ranking is only as good as its scores. In bf16 or fp16 nine queries of ten tie with their answer, so R@1 depends on
how the ties happen to be broken; TF32 and autocast bring the same loss in by the back door. Embeddings may come from
a low-precision model: they are widened to fp32, normalised again, and only then multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

UNIT_TOLERANCE = 0.05  # bf16 and fp16 vectors are unit to within 1 %; raw features are not


def unit_rows(name: str, rows: Float[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
    """``rows``, detached, in fp32 and of unit norm.

    Raises ValueError naming ``name`` if a row is not finite (a NaN would rank silently) or is no unit vector.
    """
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a matrix [rows, width], got shape {tuple(rows.shape)}")
    rows = rows.detach().float()
    norms = rows.norm(dim=1)
    bad = ~rows.isfinite().all(dim=1)
    if bad.any():
        raise ValueError(f"{name} must be finite, got NaN or infinity in {int(bad.sum())} rows, first {_first(bad)}")
    bad = (norms - 1).abs() > UNIT_TOLERANCE
    if bad.any():
        first = _first(bad)
        raise ValueError(f"{name} must be unit vectors, got norm {float(norms[first]):.4g} in row {first}")
    return rows / norms[:, None]


def _first(flags: Tensor) -> int:
    return int(flags.nonzero()[0])


@contextmanager
def exact_fp32(device: torch.device) -> Iterator[None]:
    """Within it fp32 products are fp32: no autocast, no TF32 on CUDA, no bf16 in oneDNN. Settings come back after."""
    onednn: Any = torch.backends.mkldnn  # its settings are made at run time, unknown to type checkers
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
