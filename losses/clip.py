"""CLIP's loss: each image picks its text among all texts, each text its image (Radford et al. 2021, figure 3).

L = 1/2 [mean_i CE(row i) + mean_i CE(column i)] over the global batch of all ranks, with gradients to both sides on all
ranks (many codes gather without). Exact in O(N D) memory: see `losses.core.contrastive`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import shared_mean


class ClipLoss(nn.Module):
    """CLIP's symmetric cross entropy.

    Args:
        negatives: where negatives come from: "all" ranks, this "rank", or groups of so many consecutive images of it.
    """

    def __init__(self, negatives: Negatives = "all") -> None:
        super().__init__()
        check_negatives(negatives)
        self.negatives: Negatives = negatives

    def forward(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "B D"],
        scale: Scalar,
        valid: Bool[Tensor, " B"] | None = None,
        text_id: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no row is valid.

        Args:
            image, text: unit vectors; row i of one belongs to row i of the other.
            scale: what multiplies the similarities.
            valid: rows that take part; all by default.
            text_id: images whose text has the same id are not negatives of each other's text.

        Raises:
            ValueError: where shapes do not agree.
        """
        if image.ndim != 2 or image.shape != text.shape:
            raise ValueError(f"image and text must both be [B, D], got {list(image.shape)} and {list(text.shape)}")
        for name, x in (("valid", valid), ("text_id", text_id)):
            if x is not None and x.shape != image.shape[:1]:
                raise ValueError(f"{name} must be [B] = {list(image.shape[:1])}, got {list(x.shape)}")
        if valid is None:
            valid = torch.ones(len(image), dtype=torch.bool, device=image.device)
        if valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {valid.dtype}")
        ids = None if text_id is None else text_id[:, None, None]
        rows, cols = (ContrastSide(x[:, None], valid[:, None], ids) for x in (image, text))
        logits = log_partition(rows, cols, scale, negatives=self.negatives)
        own = logits.own.squeeze(2)
        return shared_mean(0.5 * (logits.row_partition + logits.col_partition - 2 * own).sum(), valid.sum().to(own))
