"""CLIP's loss with several texts per image: β-CLIP's baseline "multi-positive" (arXiv 2512.12678).

z_j = scale image·text_j over the global batch of all ranks; T(b) are the valid texts of image b:

    L = 1/2 mean_b [lse_j z_bj - mean_{j in T(b)} z_bj] + 1/2 mean_j [lse_b z_bj - z_{b(j) j}]

With one text per image it is CLIP's loss. The published code gathers without gradient and leaves padded slots in the
softmax; here gradients come from all ranks, padding is left out, and given `text_id` a text that also belongs to
another image is not a negative of that image.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from losses.core.checks import check_slots
from losses.core.contrastive import Scalar, images_and_texts, log_partition
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import shared_mean


class MultiPositiveClipLoss(nn.Module):
    """Each image is contrasted with all texts, each text with all images; all texts of an image are positives.

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
            valid: True for slots that hold a text; the contents of the others, NaN included, have no effect. An image
                without a text is left out.
            scale: factor of the similarities.
            text_id: a text is not a negative of an image that has a text of the same id.

        Raises:
            ValueError: where shapes do not agree.
        """
        if text.ndim != 3 or image.shape != text[:, 0].shape:
            raise ValueError(f"image must be [B, D] and text [B, K, D], got {list(image.shape)} and {list(text.shape)}")
        check_slots(text.shape[:2], "B, K", valid, text_id=text_id)
        images, texts = images_and_texts(image, text, valid, text_id)
        logits = log_partition(images, texts, scale, negatives=self.negatives)
        positives, count = logits.within.squeeze(1), valid.sum(1)
        from_image = logits.row_partition.sum() - (positives.sum(1) / count.clamp(min=1)).sum()
        from_text = logits.col_partition.sum() - positives.sum()
        images_mean = shared_mean(from_image, images.valid.sum().to(positives))
        return 0.5 * (images_mean + shared_mean(from_text, count.sum().to(positives)))
