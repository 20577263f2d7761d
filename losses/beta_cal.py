"""β-CAL, β-CLIP's contextualised contrastive alignment loss (arXiv 2512.12678).

Each of the K texts of an image pools its own vector u from the image's patches. Row (b, k) holds u, column (b, k) the
text v, z = scale u.v. The text itself is a positive of strength α, the other texts of the same image are positives of
strength β, all other pairs are negatives. Over valid slots only:

    CE   p_ij = w_ij / sum_l w_il,  w = α if i = j, β if same image, else 0
         L = 1/2 mean_i [lse_j z_ij - sum_j p_ij z_ij] + 1/2 mean_j [lse_i z_ij - sum_i p_ij z_ij]
    BCE  L = mean_ij ω_ij [softplus(z_ij) - y_ij z_ij],  y = same image, ω = β if same image and i != j, else 1
         (α plays no part)

Where we differ from the published code: padded slots are neither negatives nor counted (there they enter CE's
denominators and BCE's divisor); negatives come from all ranks (there only from the same rank); given `text_id`, equal
texts are not negatives of each other's images, nor within an image where CE's β is 0. `published_numerics=True` is the
published loss. Without padding and repeated texts, on one rank, both are equal.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from losses.beta_cal_reference import published_bce, published_ce
from losses.core.checks import check_slots
from losses.core.contrastive import ContrastSide, Scalar, log_partition, softplus_sum
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import shared_mean


class BetaCalLoss(nn.Module):
    """β-CAL with soft targets (``"ce"``) or independent pairs (``"bce"``).

    Args:
        objective: ``"ce"`` or ``"bce"``.
        beta: strength of the other texts of the same image, in [0, 1].
        alpha: strength of the text itself, above 0; CE only.
        published_numerics: the published loss, with its treatment of padding, without `text_id`, weights, bias and
            `negatives`.
        negatives: where negatives come from: "all" ranks, this "rank", or groups of so many consecutive images of it.
        normalize_by: BCE is a mean over valid pairs (``"pair"``, as published: the gradient of a positive shrinks with
            the batch) or a sum over pairs divided by the valid rows (``"row"``, as in SigLIP: it does not shrink).
        bias: initial value of a learnable bias on BCE's logits (SigLIP: -10); none by default, as published.

    Raises:
        ValueError: where an argument is out of its range or does not fit the others.
    """

    def __init__(
        self,
        objective: Literal["ce", "bce"] = "ce",
        beta: float = 0.5,
        alpha: float = 1.0,
        published_numerics: bool = False,
        negatives: Negatives = "all",
        normalize_by: Literal["pair", "row"] = "pair",
        bias: float | None = None,
    ) -> None:
        super().__init__()
        if objective not in ("ce", "bce"):
            raise ValueError(f'objective must be "ce" or "bce", got {objective!r}')
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {beta}")
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if normalize_by not in ("pair", "row"):
            raise ValueError(f'normalize_by must be "pair" or "row", got {normalize_by!r}')
        check_negatives(negatives)
        if objective == "ce" and (bias is not None or normalize_by != "pair"):
            raise ValueError(
                'bias and normalize_by belong to objective "bce", got '
                f'bias={bias}, normalize_by={normalize_by!r} with "ce"'
            )
        if published_numerics and (negatives != "all" or normalize_by != "pair" or bias is not None):
            raise ValueError(
                f"published_numerics allows no other negatives, normalize_by or bias, got negatives={negatives!r}, "
                f"normalize_by={normalize_by!r}, bias={bias}"
            )
        self.objective: Literal["ce", "bce"] = objective
        self.beta, self.alpha, self.published_numerics = beta, alpha, published_numerics
        self.negatives: Negatives = negatives
        self.normalize_by = normalize_by
        self.bias = None if bias is None else nn.Parameter(torch.full((1,), float(bias)))

    def forward(
        self,
        pooled: Float[Tensor, "B K D"],
        text: Float[Tensor, "B K D"],
        valid: Bool[Tensor, "B K"],
        scale: Scalar,
        text_id: Int[Tensor, "B K"] | None = None,
        weight: Float[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no slot is valid.

        Args:
            pooled, text: unit vectors; slot (b, k) of one belongs to slot (b, k) of the other.
            valid: True for slots that hold a text; the contents of the others, NaN included, have no effect.
            scale: factor of the similarities.
            text_id: slots of different images with equal ids are not negatives of each other. Of one image, where they
                are positives of strength β, CE leaves them out of each other's denominators if β is 0.
            weight: weight of a slot (by its grain, say), not negative; a BCE pair has the mean weight of its two
                slots. Means become weighted means.

        Raises:
            ValueError: where shapes do not agree, or weights are given with `published_numerics`.
        """
        if pooled.ndim != 3 or pooled.shape != text.shape:
            raise ValueError(f"pooled and text must both be [B, K, D], got {list(pooled.shape)} and {list(text.shape)}")
        check_slots(pooled.shape[:2], "B, K", valid, text_id=text_id, weight=weight)
        if self.published_numerics:
            if weight is not None:
                raise ValueError("weight must be None with published_numerics=True: the published loss has no weights")
            if self.objective == "ce":
                return published_ce(pooled, text, valid, scale, self.alpha, self.beta)
            return published_bce(pooled, text, valid, scale, self.beta)
        ids = None if text_id is None else text_id[..., None]
        rows, cols = ContrastSide(pooled, valid, ids), ContrastSide(text, valid, ids)
        dtype = torch.promote_types(pooled.dtype, torch.float32)
        weight = valid.to(dtype) if weight is None else torch.where(valid, weight, 0).to(dtype)
        return (self._ce if self.objective == "ce" else self._bce)(rows, cols, scale, weight)

    def targets(self, valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K K"]:
        """Target matrix of an image's views and texts: CE's p_ij, BCE's y_ij ω_ij; 0 for padding.

        With other images both are 0, though BCE weighs those pairs by 1.
        """
        if self.objective == "ce":
            return self._shares(valid, torch.get_default_dtype())
        return self._strengths(valid, 1.0, torch.get_default_dtype())

    def _ce(
        self, rows: ContrastSide, cols: ContrastSide, scale: Scalar, weight: Float[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        keep = None if self.beta > 0 or cols.ids is None else _no_copies(cols.ids[..., 0])
        logits = log_partition(rows, cols, scale, keep, negatives=self.negatives)
        # Strengths are symmetric, so the targets of a row and of a column are the same numbers.
        aligned = self._shares(rows.valid, logits.within.dtype) * logits.within
        row = logits.row_partition - aligned.sum(2)
        col = logits.col_partition - aligned.sum(1)
        return shared_mean((weight * (row + col)).sum() / 2, weight.sum())

    def _bce(
        self, rows: ContrastSide, cols: ContrastSide, scale: Scalar, weight: Float[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        bias = 0.0 if self.bias is None else self.bias
        logits = softplus_sum(rows, cols, scale, bias, (weight, weight), negatives=self.negatives)
        pair = (weight[:, :, None] + weight[:, None, :]) / 2 * (rows.valid[:, :, None] & rows.valid[:, None, :])
        within = -(pair * self._strengths(rows.valid, 1.0, pair.dtype) * F.logsigmoid(logits.within)).sum()
        count = weight.sum() if self.normalize_by == "row" else logits.weight + pair.sum()
        return shared_mean(logits.total + within, count)

    def _shares(self, valid: Bool[Tensor, "B K"], dtype: torch.dtype) -> Float[Tensor, "B K K"]:
        pull = self._strengths(valid, self.alpha, dtype)
        return pull / pull.sum(2, keepdim=True).clamp(min=self.alpha)

    def _strengths(self, valid: Bool[Tensor, "B K"], diagonal: float, dtype: torch.dtype) -> Float[Tensor, "B K K"]:
        """Strength of each pair of one image as a positive: ``diagonal`` for i = j, β for i ≠ j, 0 with padding."""
        same_slot = torch.eye(valid.shape[1], dtype=dtype, device=valid.device)
        return (diagonal * same_slot + self.beta * (1 - same_slot)) * (valid[:, :, None] & valid[:, None, :])


def _no_copies(ids: Int[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    """False for pairs of two slots of one image that hold the same text."""
    same_slot = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    return same_slot | (ids[:, :, None] != ids[:, None, :])
