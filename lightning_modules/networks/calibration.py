"""Token calibration: many patches or words are condensed to a few tokens (MulCLIP, arXiv 2512.07128; FineLIP's ATRM).

One small network tells, for each of N' slots, how much each of the N tokens x of one image or caption belongs there:

    u_n = W2 GELU(W1 LN(x_n) + b1) + b2,   A = softmax over n of γ u,   x'_j = unit(sum_n A_jn x_n)

The paper cites FineLIP (arXiv 2504.01916); sizes are those of its code: W1 narrows to a fifth of the width, N' is a
fifth of the patches, γ is learnt, starts at 1 and takes the place of 1/τ. Where we differ: a caption's tokens are
masked in one batch, not sliced caption by caption, and EOT is found by position, not by counting non-zero ids.

At that start the logits hardly differ from token to token, so A is almost uniform and all N' outputs are the mean token
(pairwise cosines above 0.999). Losses that tell tokens apart have nothing to go by until the network has grown; hence
its own, large learning rate. A larger start of γ (`gain`) draws the slots apart from the first step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_modules.networks.normalize import unit

NARROWING = 0.2  # width of the hidden layer, as a share of the tokens' width


class Calibrated(NamedTuple):
    """Calibrated tokens and the attention that made them."""

    tokens: Float[Tensor, "B J D"]  # unit norm
    attention: Float[Tensor, "B J N"]  # weights of the input tokens; rows sum to one


class TokenCalibration(nn.Module):
    """Condense a set of tokens.

    Args:
        width: of the tokens.
        tokens: how many come out.
        gain: start of the factor γ on the logits; 1 as published, more draws the outputs apart.

    Raises:
        ValueError: where an argument is out of its range.
    """

    def __init__(self, width: int, tokens: int, gain: float = 1.0) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {tokens}")
        if not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"gain must be positive and finite, got {gain}")
        hidden = max(1, int(NARROWING * width))
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, tokens))
        self.gain = nn.Parameter(torch.tensor([float(gain)]))

    def forward(self, x: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None = None) -> Calibrated:
        """Tokens as the encoder gives them, not normalised, to unit vectors.

        In float32 or wider, under autocast too: what tells the outputs apart may be small. The scoring network runs in
        the precision of its weights.

        Args:
            x: tokens of the joint space.
            valid: tokens that are there, all by default. What the others hold, NaN included, changes nothing.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if valid is not None:
                x = torch.where(valid[..., None], x, 0)
            logits = self.gain * self.score(x.to(self.gain.dtype)).mT.to(x.dtype)
            if valid is not None:
                logits = logits.masked_fill(~valid[:, None, :], torch.finfo(logits.dtype).min)
            attention = logits.softmax(-1)
            return Calibrated(unit(attention @ x), attention)


def mean_cosine(tokens: Float[Tensor, "B J D"]) -> Float[Tensor, ""]:
    """Of all pairs of different tokens of one image: 1 where they are all alike (or where there is one only)."""
    count = tokens.shape[1]
    if count == 1:
        return tokens.new_ones(())
    return ((tokens.sum(1).square().sum(-1) - count) / (count * (count - 1))).mean()


def attention_perplexity(attention: Float[Tensor, "*rows N"]) -> Float[Tensor, " *rows"]:
    """Perplexity of each row of weights over N tokens: the exponential of its entropy, 1 to N."""
    return torch.special.entr(attention).sum(-1).exp()
