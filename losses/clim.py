"""CLIM, FineLIP's loss between all images' and all captions' tokens (arXiv 2504.01916), for comparison with MulCLIP.

An image and a caption agree as far as their tokens find each other, φ being LeakyReLU with slope 0.1:

    R(I, T) = mean_j max_k φ(v_j.t_k) + mean_k max_j φ(v_j.t_k)
    L = sum over i ≠ j of [m + R(I_i, T_j) - R(I_i, T_i)]+ + [m + R(I_i, T_j) - R(I_j, T_j)]+

The sum over all pairs and the margin m = 0.2 are those of FineLIP's code (which follows LAPS). R is no inner product,
so the tiled engine cannot serve; the images of this rank meet the captions of all ranks in parts of at most `PAIRS`
pairs of tokens (but at least one image), which backward computes again. Exact over ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses.core.process_group import ProcessGroup
from losses.core.tokens import checked_mask

PAIRS = 2**22
SLOPE = 0.1


class ClimLoss(nn.Module):
    """Hinge loss over all pairs of images and captions.

    Args:
        margin: by which an image and its caption should agree better than either with another.

    Raises:
        ValueError: where the margin is negative.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must be 0 or more, got {margin}")
        self.margin = margin

    def forward(
        self,
        image_tokens: Float[Tensor, "B N D"],
        text_tokens: Float[Tensor, "B M D"],
        text_valid: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, ""]:
        """The sum over the pairs of the whole batch, scaled so that its mean over ranks is that sum.

        Args:
            image_tokens, text_tokens: unit vectors of the same B images; N is the same on all ranks, M need not be.
            text_valid: text tokens that are there; all by default. What the others hold changes nothing.

        Raises:
            ValueError: where shapes do not agree.
        """
        text_valid = checked_mask(image_tokens, text_tokens, text_valid)
        ranks = ProcessGroup.everyone()
        with torch.autocast(image_tokens.device.type, enabled=False):
            dtype = torch.promote_types(image_tokens.dtype, torch.float32)
            image = image_tokens.to(dtype)
            text = torch.where(text_valid[..., None], text_tokens, 0).to(dtype)
            counts = ranks.counts(len(text), text.device)
            longest = int(ranks.maximum(torch.tensor(text.shape[1], device=text.device)))
            wider = longest - text.shape[1]
            own = _agreement(image, text, text_valid)
            # One gather for both, used on every rank, so that backward's collectives meet.
            mine = torch.cat([F.pad(text, (0, 0, 0, wider)).flatten(1), own[:, None]], 1)
            gathered = _Gathered.apply(mine, counts, ranks)
            everyones, best = gathered[:, :-1].unflatten(1, (longest, -1)), gathered[:, -1]
            valid = ranks.gather(F.pad(text_valid, (0, wider)), counts)
            part = max(1, PAIRS // max(1, image.shape[1] * everyones.shape[0] * longest))
            total = 0 * gathered.sum()
            for start in range(0, len(image), part):
                rows = slice(start, start + part)
                first = sum(counts[: ranks.index]) + start
                given = (image[rows], everyones, valid, own[rows], best, first)
                total = total + checkpoint(self._hinge, *given, use_reentrant=False)
            return ranks.size * total

    def _hinge(
        self, image: Tensor, text: Tensor, valid: Tensor, own: Tensor, best: Tensor, first: int
    ) -> Float[Tensor, ""]:
        """Of some images with all captions; the first of them belongs to caption ``first``."""
        agreement = _agreement(image[:, None], text, valid)
        either = (self.margin + agreement - own[:, None]).relu() + (self.margin + agreement - best).relu()
        rows = torch.arange(len(image), device=image.device)
        return either.index_put((rows, first + rows), either.new_zeros(())).sum()


def _agreement(
    image: Float[Tensor, "*images N D"], text: Float[Tensor, "captions M D"], valid: Bool[Tensor, "captions M"]
) -> Float[Tensor, " *pairs"]:
    """R of images and captions, whose leading axes are broadcast together; 0 for a caption without a token."""
    cosines = F.leaky_relu(image @ text.mT, SLOPE)
    there = valid[..., None, :]
    image_side = torch.where(there.any(-1), cosines.masked_fill(~there, -torch.inf).amax(-1), 0).mean(-1)
    text_side = torch.where(valid, cosines.amax(-2), 0).sum(-1) / valid.sum(-1).clamp(min=1)
    return image_side + text_side


class _Gathered(torch.autograd.Function):
    """The rows of all ranks; backward sums what all ranks make of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], ranks: ProcessGroup) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        return ranks.gather(rows.contiguous(), counts).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.ranks.scatter_sum(grad.contiguous().clone(), ctx.counts), None, None
