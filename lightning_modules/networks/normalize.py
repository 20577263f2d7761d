"""Unit vectors: every similarity in the framework is a cosine, so features leave the encoder with norm one.

Half precision is widened first: a norm over 512 squared bf16 numbers is good to two digits only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def unit(features: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """L2-normalise the last axis, in float32 or wider."""
    return functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
