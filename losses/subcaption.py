"""Subcaption-aggregated patches, MulCLIP's loss between regions and sentences (arXiv 2512.07128, L_Sub).

Each sentence q of a caption pools the patches x of its image into a region, with weights α computed from the
similarities s_n = q.x_n, and the region is contrasted with the sentence, over the images of the whole batch:

    region_i = unit(sum_n α_in x_n),   L_Sub = 1/M sum_i CLIP(region_i, sentence_i)

There is one B×B problem per sentence slot i: the other sentences of an image are not negatives. A slot is contrasted
among the images that have a sentence in it; a slot that fewer than two images of the whole batch fill is left out of
the mean. All slots pass through the engine at once, as parts of one batch (`losses.core.contrastive`).

The paper does not define α. "Extracts and aggregates" fits SPARC's sparse weights (arXiv 2401.09865), which DreamLIP
uses for subcaptions too: of 64 patches they drop few. A sharp softmax is the default of the methods here, since it
gained more details and cost less retrieval on dev scenes; the k most similar patches are the third choice. Given
`text_id`, equal sentences of different images are not negatives of each other, as in our β-CAL.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from losses.core.checks import check_slots
from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.host_copies import derived
from losses.core.process_group import shared_means

EPS = 1e-6


class PatchWeighting(ABC):
    """Weights of an image's patches for a sentence, given their similarities."""

    @abstractmethod
    def __call__(self, similarity: Float[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """Weights of the N patches; they sum to one."""


class SparseWeights(PatchWeighting):
    """Similarities rescaled to [0, 1] over the patches; those below ``threshold`` are dropped (SPARC).

    Where all similarities are equal, all patches have the same weight.

    Args:
        threshold: in [0, 1]; None: one over the number of patches.
    """

    def __init__(self, threshold: float | None = None) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self.threshold = threshold

    @override
    def __call__(self, similarity: Float[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        patches = similarity.shape[-1]
        threshold = 1 / patches if self.threshold is None else self.threshold
        low, high = similarity.amin(-1, keepdim=True), similarity.amax(-1, keepdim=True)
        rescaled = (similarity - low) / (high - low + EPS)
        sparse = torch.where(rescaled < threshold, 0, rescaled)
        total = sparse.sum(-1, keepdim=True)
        return torch.where(total > 0, sparse / torch.where(total > 0, total, 1), 1 / patches)


class SoftmaxWeights(PatchWeighting):
    """softmax(s / ``temperature``)."""

    def __init__(self, temperature: float = 0.03) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    @override
    def __call__(self, similarity: Float[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        return (similarity / self.temperature).softmax(-1)


class TopWeights(PatchWeighting):
    """The mean of the ``patches`` most similar ones, or of all where there are fewer."""

    def __init__(self, patches: int = 8) -> None:
        if patches < 1:
            raise ValueError(f"patches must be at least 1, got {patches}")
        self.patches = patches

    @override
    def __call__(self, similarity: Float[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        count = min(self.patches, similarity.shape[-1])
        best = similarity.topk(count, dim=-1).indices
        return torch.zeros_like(similarity).scatter(-1, best, 1 / count)


torch.serialization.add_safe_globals([SparseWeights, SoftmaxWeights, TopWeights])  # checkpoints contain them


def patch_weights(
    patches: Float[Tensor, "B N D"],
    sentences: Float[Tensor, "B M D"],
    valid: Bool[Tensor, "B M"],
    aggregation: PatchWeighting,
) -> Float[Tensor, "B M N"]:
    """Weights of the patches for each sentence, in float32 or wider; uniform for a padded sentence."""
    with torch.autocast(patches.device.type, enabled=False):
        dtype = torch.promote_types(patches.dtype, torch.float32)
        queries = torch.where(valid[..., None], sentences, 0).to(dtype)
        return aggregation(queries @ patches.to(dtype).mT)


def aggregate(
    patches: Float[Tensor, "B N D"],
    sentences: Float[Tensor, "B M D"],
    valid: Bool[Tensor, "B M"],
    aggregation: PatchWeighting,
) -> Float[Tensor, "B M D"]:
    """The region of each sentence: its image's patches, weighted and summed, of unit norm.

    Args:
        patches, sentences: unit vectors.
        valid: True for slots that hold a sentence; the contents of the others, NaN included, have no effect.
        aggregation: computes weights from similarities.
    """
    weights = patch_weights(patches, sentences, valid, aggregation)
    with torch.autocast(patches.device.type, enabled=False):
        return F.normalize(weights @ patches.to(weights.dtype), dim=-1)


class SubcaptionLoss(nn.Module):
    """The mean over sentence slots of CLIP's loss between regions and sentences."""

    def forward(
        self,
        regions: Float[Tensor, "B M D"],
        sentences: Float[Tensor, "B M D"],
        valid: Bool[Tensor, "B M"],
        scale: Scalar,
        text_id: Int[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no slot has two sentences.

        Args:
            regions, sentences: unit vectors; slot (b, i) of one belongs to slot (b, i) of the other. The number of
                slots may differ between ranks.
            valid: True for slots that hold a sentence; the contents of the others, NaN included, have no effect.
            scale: factor of the similarities.
            text_id: sentences of different images with equal ids are not negatives of each other.

        Raises:
            ValueError: where shapes do not agree.
        """
        if regions.ndim != 3 or regions.shape != sentences.shape:
            raise ValueError(
                f"regions and sentences must both be [B, M, D], got {list(regions.shape)} and {list(sentences.shape)}"
            )
        check_slots(regions.shape[:2], "B, M", valid, text_id=text_id)
        images, slots = valid.shape
        # A block of the engine is one slot of one image; slots are parts, which are not contrasted with each other.
        slot = np.tile(np.arange(slots), images)
        slot_valid = derived(lambda mask: mask.reshape(-1, 1), valid)
        rows, cols = (
            ContrastSide(x.flatten(0, 1)[:, None], slot_valid, None if text_id is None else text_id.reshape(-1, 1, 1))
            for x in (regions, sentences)
        )
        logits = log_partition(rows, cols, scale, part=slot)
        losses = (logits.row_partition + logits.col_partition) / 2 - logits.within.squeeze(2)
        return shared_means(losses.view(images, slots).sum(0), valid.sum(0), least=2)
