"""CLIP's loss: each image is classified among all texts, each text among all images (Radford et al. 2021, figure 3).

L = 1/2 [mean_i CE(row i) + mean_i CE(column i)] over the global batch of all ranks, with gradients to both sides on all
ranks (much published code gathers without gradient). Exact in O(N D) memory: see `losses.core.contrastive`.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from losses.core.checks import check_slots
from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.host_copies import derived, everywhere
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
            scale: factor of the similarities.
            valid: True for rows that take part; all by default.
            text_id: images whose texts have equal ids are not negatives of each other's text.

        Raises:
            ValueError: where shapes do not agree.
        """
        if image.ndim != 2 or image.shape != text.shape:
            raise ValueError(f"image and text must both be [B, D], got {list(image.shape)} and {list(text.shape)}")
        check_slots(image.shape[:1], "B", valid, text_id=text_id)
        if valid is None:
            valid = everywhere(len(image), device=image.device)
        slot_valid = derived(lambda mask: mask[:, None], valid)
        ids = None if text_id is None else text_id[:, None, None]
        rows, cols = (ContrastSide(x[:, None], slot_valid, ids) for x in (image, text))
        logits = log_partition(rows, cols, scale, negatives=self.negatives)
        matched = logits.within.squeeze(2)
        total = 0.5 * (logits.row_partition + logits.col_partition - 2 * matched).sum()
        return shared_mean(total, valid.sum().to(matched))
