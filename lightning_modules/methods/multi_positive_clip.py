"""CLIP with several texts per image and a global loss only: β-CLIP's baseline "multi-positive" (arXiv 2512.12678).

The class token is contrasted with the texts of all images; caption and sentences of its own image are all positives.
It shows what more texts bring without text-conditioned pooling. The paper's table has caption and five sentences
(K = 6); the published code leaves the caption out, here it is one of ``grains``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.batch_indices import slots_of
from lightning_modules.methods.data_check import check_sampled
from losses import MultiPositiveClipLoss

torch.serialization.add_safe_globals([Grain])  # checkpoints contain them


class MultiPositiveClip(Method):
    """L = multi-positive CLIP(image, texts).

    Args:
        grains: their texts are the positives of an image.
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where no grain is named, or one twice.
    """

    needs_dense = False
    softmax_loss = MultiPositiveClipLoss

    def __init__(self, grains: Sequence[Grain] = (Grain.CAPTION, Grain.SENTENCE), **base: Any) -> None:
        if not grains or len(set(grains)) < len(grains):
            raise ValueError(f"grains must name one or more different grains, got {[g.value for g in grains]}")
        super().__init__(**base)
        self.grains = tuple(grains)

    @override
    def required_grains(self) -> Collection[Grain]:
        return self.grains

    @override
    def on_fit_start(self) -> None:
        """Stop where the data samples none of a grain."""
        check_sampled(self)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        texts = slots_of(batch, self.grains)
        ids = batch.texts.ids[texts.index]
        vectors = features.texts_at(texts)
        return {"global": self.contrast_globally(features.images.image, vectors, texts.valid, ids)}
