"""CLIM, FineLIP's loss between the tokens of all images and all captions (arXiv 2504.01916), for comparison with
MulCLIP.

The similarity R of an image and a caption averages the best cosine of each token, φ being LeakyReLU with slope 0.1:

    R(I, T) = mean_j max_k φ(v_j.t_k) + mean_k max_j φ(v_j.t_k)
    L = sum over i ≠ j of [m + R(I_i, T_j) - R(I_i, T_i)]+ + [m + R(I_i, T_j) - R(I_j, T_j)]+

The sum over all pairs and the margin m = 0.2 are those of FineLIP's code (which follows LAPS). R is not an inner
product, so the tiled engine does not apply: the images of this rank are compared with the captions of all ranks in
chunks of at most `PAIRS` pairs of tokens (but at least one image), which backward recomputes. Exact over ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses.core.checks import token_mask
from losses.core.process_group import ProcessGroup

PAIRS = 2**22
SLOPE = 0.1


class ClimLoss(nn.Module):
    """Hinge loss over all pairs of images and captions.

    Args:
        margin: by how much R of an image and its caption should exceed R of either with another.

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
            text_valid: True for text tokens, False for padding, whose contents have no effect; all True by default.

        Raises:
            ValueError: where shapes do not agree.
        """
        text_valid = token_mask(image_tokens, text_tokens, text_valid)
        ranks = ProcessGroup.world()
        with torch.autocast(image_tokens.device.type, enabled=False):
            dtype = torch.promote_types(image_tokens.dtype, torch.float32)
            image = image_tokens.to(dtype)
            text = torch.where(text_valid[..., None], text_tokens, 0).to(dtype)
            counts = ranks.counts(len(text), text.device)
            longest = ranks.largest(text.shape[1], text.device)
            padding = longest - text.shape[1]
            matched = _similarity(image, text, text_valid)
            # One gather for captions and similarities, used on every rank, so that backward's collectives match.
            local = torch.cat([F.pad(text, (0, 0, 0, padding)).flatten(1), matched[:, None]], 1)
            gathered = _Gather.apply(local, counts, ranks)
            all_text, all_matched = gathered[:, :-1].unflatten(1, (longest, -1)), gathered[:, -1]
            valid = ranks.gather(F.pad(text_valid, (0, padding)), counts)
            chunk = max(1, PAIRS // max(1, image.shape[1] * all_text.shape[0] * longest))
            total = 0 * gathered.sum()
            for start in range(0, len(image), chunk):
                rows = slice(start, start + chunk)
                first = sum(counts[: ranks.index]) + start
                arguments = (image[rows], all_text, valid, matched[rows], all_matched, first)
                total = total + checkpoint(self._hinge, *arguments, use_reentrant=False)
            return ranks.size * total

    def _hinge(
        self, image: Tensor, text: Tensor, valid: Tensor, image_matched: Tensor, text_matched: Tensor, first: int
    ) -> Float[Tensor, ""]:
        """The sum over some images and all captions; ``first`` is the caption of the first image.

        ``image_matched`` and ``text_matched`` are R of each image, and of each caption, with its match.
        """
        similarity = _similarity(image[:, None], text, valid)
        hinge = (self.margin + similarity - image_matched[:, None]).relu()
        hinge = hinge + (self.margin + similarity - text_matched).relu()
        rows = torch.arange(len(image), device=image.device)
        return hinge.index_put((rows, first + rows), hinge.new_zeros(())).sum()


def _similarity(
    image: Float[Tensor, "*images N D"], text: Float[Tensor, "captions M D"], valid: Bool[Tensor, "captions M"]
) -> Float[Tensor, " *pairs"]:
    """R of images and captions, whose leading axes are broadcast; 0 for a caption without a token."""
    cosines = F.leaky_relu(image @ text.mT, SLOPE)
    mask = valid[..., None, :]
    image_side = torch.where(mask.any(-1), cosines.masked_fill(~mask, -torch.inf).amax(-1), 0).mean(-1)
    text_side = torch.where(valid, cosines.amax(-2), 0).sum(-1) / valid.sum(-1).clamp(min=1)
    return image_side + text_side


class _Gather(torch.autograd.Function):
    """Gathers the rows of all ranks; backward sums their gradients over ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], ranks: ProcessGroup) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        return ranks.gather(rows.contiguous(), counts).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.ranks.scatter_sum(grad.contiguous().clone(), ctx.counts), None, None
