"""A method of one's own: SigLIP's sigmoid loss (Zhai et al., ICCV 2023) between images and captions."""

from __future__ import annotations

import torch
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules import Method, OptimConfig
from lightning_modules.methods.base import Features, LossTerms
from lightning_modules.networks import EncoderConfig
from losses import BetaCalLoss


class SigLip(Method):
    """Every pair is a question of its own; β-CAL's BCE with one text an image is just that, over all ranks.

    Args:
        bias: where the learnt bias of the logits starts.
        encoder: sizes of the towers.
        optim: learning rates and schedule.
    """

    def __init__(
        self, bias: float = -10.0, encoder: EncoderConfig = EncoderConfig(), optim: OptimConfig = OptimConfig()
    ) -> None:
        super().__init__(encoder, optim)
        self.sigmoid = BetaCalLoss("bce", beta=0.0, normalize_by="row", bias=bias)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = batch.grains[Grain.CAPTION]
        pictures, texts = features.images.image[:, None], features.texts_at(captions)[:, :1]
        there = torch.ones(pictures.shape[:2], dtype=torch.bool, device=pictures.device)
        return {"sigmoid": self.sigmoid(pictures, texts, there, self.encoder.scale)}
