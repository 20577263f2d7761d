"""Features of lexemes: the words that name something, read inside their caption (HarmoCLIP's "text token space").

The caption's own pass gives a feature for every token, through the same final norm and projection as EOT's, so words
cost nothing extra and know their context, as far as a causal transformer lets them: what stands before them.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_modules.networks.normalize import unit
from losses.core.host_copies import on_host

Pooling = Literal["mean", "last"]


def pool_lexemes(
    tokens: Float[Tensor, "T D"], first: Int[Tensor, " Q"], span: Int[Tensor, "Q 2"], pooling: Pooling = "mean"
) -> Float[Tensor, "Q D"]:
    """One unit vector per lexeme.

    Args:
        tokens: of all texts, end to end, not normalised.
        first: where each lexeme's caption begins among them.
        span: its tokens [start, end) within the caption, at least one; SOT is token 0.
        pooling: the ``mean`` of the tokens; or the ``last`` one, which has read the others.

    Raises:
        ValueError: where a span is empty, or ``pooling`` is none of these.
    """
    if pooling not in ("mean", "last"):
        raise ValueError(f"pooling must be mean or last, got {pooling!r}")
    known = on_host(span)
    known_lengths = known[:, 1] - known[:, 0]
    if len(known) and known_lengths.min() < 1:
        raise ValueError(f"span must hold at least one token, got {known[known_lengths.argmin()].tolist()}")
    if pooling == "last":
        return unit(tokens[first + span[:, 1] - 1])
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    lengths, number = span[:, 1] - span[:, 0], torch.arange(len(span), device=span.device)
    lexeme = torch.repeat_interleave(number, lengths, output_size=int(known_lengths.sum()))
    start = lengths.cumsum(0) - lengths
    within = torch.arange(len(lexeme), device=span.device) - start[lexeme]
    token_features = wide[(first + span[:, 0])[lexeme] + within]
    return unit(wide.new_zeros(len(span), wide.shape[1]).index_add(0, lexeme, token_features) / lengths[:, None])
