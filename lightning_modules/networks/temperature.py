"""A learned temperature: cosines are multiplied by its inverse, ``scale``, which is kept as a logarithm.

A module of its own, though it holds one number: losses need the scale outside the encoder's forward, where FSDP2 has
put the encoder's parameters back into shards. Wrapped by itself it is gathered on each call, and being 1-D it can be.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Temperature(nn.Module):
    """Calling it gives the scale.

    Args:
        scale: at the start; CLIP's is 1 / 0.07.
        largest: an optimiser's step leaves the scale between 1 and this; CLIP's is 100, SigLIP has none.
    """

    def __init__(self, scale: float = 1 / 0.07, largest: float = 100.0) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.largest = largest
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def forward(self) -> Float[Tensor, " 1"]:
        """The logit scale, the factor on similarities."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the scale between 1 and ``largest``."""
        self.log_scale.clamp_(0.0, math.log(self.largest))


class LogitBias(nn.Module):
    """A learned bias of a sigmoid loss's logits, a module of its own as `Temperature` is. Calling it gives the bias.

    Args:
        start: SigLIP's is -10.
    """

    def __init__(self, start: float = -10.0) -> None:
        super().__init__()
        if not math.isfinite(start):
            raise ValueError(f"start must be finite, got {start}")
        self.logit_bias = nn.Parameter(torch.tensor([float(start)]))

    def forward(self) -> Float[Tensor, " 1"]:
        """The bias, a summand of scaled similarities."""
        return self.logit_bias * 1  # a tensor of its own: FSDP2 takes the parameter away after this call
