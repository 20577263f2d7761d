"""CLIP's loss with several texts per image: β-CLIP's baseline "multi-positive" (arXiv 2512.12678).

z_j = scale image·text_j over the global batch of all ranks; T(b) are the valid texts of image b:

    L = 1/2 mean_b [lse_j z_bj - mean_{j in T(b)} z_bj] + 1/2 mean_j [lse_b z_bj - z_{b(j) j}]

With one text each it is CLIP's loss. The published code gathers without gradient and leaves padded slots in the
softmax; here gradients come from all ranks, padding takes no part, and given `text_id` a text that also belongs to
another image is no negative of that image.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import shared_mean


class MultiPositiveClipLoss(nn.Module):
    """Each image picks its texts among all texts, each text its image among all images.

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
        text: Float[Tensor, "B K D"],
        valid: Bool[Tensor, "B K"],
        scale: Scalar,
        text_id: Int[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no slot is valid.

        Args:
            image, text: unit vectors; text (b, k) belongs to image b.
            valid: slots that hold a text. What the others hold, NaN included, changes nothing, and an image without a
                text takes no part.
            scale: what multiplies the similarities.
            text_id: a text is no negative of an image that has a text of the same id.

        Raises:
            ValueError: where shapes do not agree.
        """
        if text.ndim != 3 or image.shape != text[:, 0].shape:
            raise ValueError(f"image must be [B, D] and text [B, K, D], got {list(image.shape)} and {list(text.shape)}")
        for name, x in (("valid", valid), ("text_id", text_id)):
            if x is not None and x.shape != text.shape[:2]:
                raise ValueError(f"{name} must be [B, K] = {list(text.shape[:2])}, got {list(x.shape)}")
        if valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {valid.dtype}")
        some = valid.any(1, keepdim=True)
        images, texts = ContrastSide(image[:, None], some), ContrastSide(text, valid)
        if text_id is not None:
            first = text_id.gather(1, valid.int().argmax(1, keepdim=True))
            known = torch.where(valid, text_id, first)  # an image bears the ids of its texts, and of nothing else
            images, texts = images._replace(ids=known[:, None]), texts._replace(ids=text_id[..., None])
        logits = log_partition(images, texts, scale, negatives=self.negatives)
        own, count = logits.own.squeeze(1), valid.sum(1)
        from_image = logits.row_partition.sum() - (own.sum(1) / count.clamp(min=1)).sum()
        from_text = logits.col_partition.sum() - own.sum()
        return 0.5 * (shared_mean(from_image, some.sum().to(own)) + shared_mean(from_text, count.sum().to(own)))
