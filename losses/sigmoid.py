"""SigLIP's loss: each pair of image and text is a binary classification (Zhai et al., arXiv 2303.15343, algorithm 1).

z_ij = scale image_i·text_j + bias over the global batch of all ranks, y_ij = 1 where text j is image i's, else -1:

    L = -1/N sum_ij log σ(y_ij z_ij)

N counts the images that have a text. Exact over ranks in O(N D) memory; the published code passes texts from rank to
rank. Where we differ: an image may have several texts, all of them positives; padding is left out; given `text_id` a
text that also belongs to another image is not a negative of that image.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from losses.core.checks import check_slots
from losses.core.contrastive import Scalar, images_and_texts, softplus_sum
from losses.core.host_copies import derived, everywhere
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import shared_mean


class SigmoidLoss(nn.Module):
    """SigLIP's sigmoid loss.

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
        text: Float[Tensor, "B D"] | Float[Tensor, "B K D"],
        scale: Scalar,
        bias: Scalar = 0.0,
        valid: Bool[Tensor, " B"] | Bool[Tensor, "B K"] | None = None,
        text_id: Int[Tensor, " B"] | Int[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no text is valid.

        Args:
            image, text: unit vectors; text b, or the K texts of row b, belong to image b.
            scale: factor of the similarities.
            bias: summand of the scaled similarities; SigLIP's starts at -10.
            valid: True for texts that take part; all by default. What the others hold, NaN included, has no effect.
            text_id: a text is not a negative of an image that has a text of the same id.

        Raises:
            ValueError: where shapes do not agree.
        """
        if text.ndim not in (2, 3) or image.shape != (len(text), text.shape[-1]):
            shapes = f"{list(image.shape)} and {list(text.shape)}"
            raise ValueError(f"image must be [B, D] and text [B, D] or [B, K, D], got {shapes}")
        check_slots(text.shape[:-1], "B" if text.ndim == 2 else "B, K", valid, text_id=text_id)
        if valid is None:
            valid = everywhere(*text.shape[:-1], device=text.device)
        if text.ndim == 2:
            text, valid = text[:, None], derived(lambda mask: mask[:, None], valid)
            text_id = None if text_id is None else text_id[:, None]
        images, texts = images_and_texts(image, text, valid, text_id)
        logits = softplus_sum(images, texts, scale, bias, negatives=self.negatives)
        positives = -(F.logsigmoid(logits.within.squeeze(1)) * valid).sum()
        return shared_mean(logits.total + positives, images.valid.sum().to(positives))
