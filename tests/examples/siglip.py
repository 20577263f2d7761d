"""A method of one's own: SigLIP's sigmoid loss (Zhai et al., ICCV 2023) between images and captions."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules import Method
from lightning_modules.methods.base import Features, LossTerms
from losses import BetaCalLoss


class SigLip(Method):
    """Each pair of image and text is a binary classification: β-CAL's BCE with one text an image, over all ranks.

    Args:
        bias: where the learnt bias of the logits starts.
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.
    """

    needs_dense = False

    def __init__(self, bias: float = -10.0, **base: Any) -> None:
        super().__init__(**base)
        self.sigmoid = BetaCalLoss("bce", beta=0.0, normalize_by="row", bias=bias)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = batch.grains[Grain.CAPTION]
        images, texts = features.images.image[:, None], features.texts_at(captions)[:, :1]
        valid = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device)
        return {"sigmoid": self.sigmoid(images, texts, valid, self.encoder.logit_scale)}
