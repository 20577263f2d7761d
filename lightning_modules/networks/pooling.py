"""Text-conditioned pooling: which patches does this text speak about? (β-CLIP, arXiv 2512.12678.)

One cross-attention block per text query t over an image's patches, both of unit norm, gives the image as that text
sees it:

    o = MHA(query = t, key = value = patches),   v = o + W2 QuickGELU(W1 LN(o) + b1) + b2

There is no residual from the query, so a pooled vector holds nothing but image content. The block has its own
temperature and is used in training only; at inference plain CLIP remains.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from lightning_modules.networks.normalize import unit
from lightning_modules.networks.temperature import Temperature
from lightning_modules.networks.weights.beta_clip import pooling_state
from lightning_modules.networks.weights.files import fetch, read_tensors


class TextConditionedPooling(nn.Module):
    """Pool an image's patches once per text.

    Args:
        width: of the joint space.
        heads: of the attention; must divide ``width``.
        gain: start as attention by similarity (see ``start_transparent``); None: at random, as in the paper.
    """

    def __init__(self, width: int, heads: int = 8, gain: float | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads = {heads}, got {width}")
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)  # xavier in, zero biases
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))
        self.temperature = Temperature()
        if gain is not None:
            self.start_transparent(gain)

    @classmethod
    def from_pretrained(cls, source: str | Path, heads: int = 8) -> TextConditionedPooling:
        """The pooling block of a published β-CLIP checkpoint (a file, folder or hub id)."""
        state = pooling_state(read_tensors(fetch(source)), str(source))
        pooling = cls(state["norm.weight"].shape[0], heads)
        pooling.load_state_dict(state)
        return pooling

    @torch.no_grad()
    def start_transparent(self, gain: float) -> None:
        """Start as plain attention by similarity, without a change of space: o is a mean of the patches, weighted by
        softmax(gain² q.k / sqrt(head width)), and the MLP adds nothing.

        Not in the paper, which starts from a CLIP whose patches match texts already. From scratch the random start
        would leave it to the block to translate patches into texts; the patches themselves would never learn it.
        """
        if not gain > 0:
            raise ValueError(f"gain must be above 0, got {gain}")
        width = self.attn.embed_dim
        identity = torch.eye(width)
        self.attn.in_proj_weight.copy_(torch.cat([gain * identity, gain * identity, identity]))
        self.attn.out_proj.weight.copy_(identity)
        for parameter in self.mlp[-1].parameters():
            parameter.zero_()

    @property
    def scale(self) -> Float[Tensor, " 1"]:
        """The logit scale of the pooled vectors: one over the temperature."""
        return self.temperature()

    def forward(self, queries: Float[Tensor, "B K D"], patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B K D"]:
        """Image vectors conditioned on each text; unit norm in, unit norm out."""
        queries, patches = queries.to(self.norm.weight.dtype), patches.to(self.norm.weight.dtype)
        pooled, _ = self.attn(queries, patches, patches, need_weights=False)
        return unit(pooled + self.mlp(self.norm(pooled)))

    def attention(self, queries: Float[Tensor, "B K D"], patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B K P"]:
        """Attention of each text over the patches, the mean of the heads (each row sums to one)."""
        queries, patches = queries.to(self.norm.weight.dtype), patches.to(self.norm.weight.dtype)
        return self.attn(queries, patches, patches, need_weights=True)[1]
