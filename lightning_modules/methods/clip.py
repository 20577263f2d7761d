"""CLIP fine-tuning, the baseline: whole image against whole caption (Radford et al., arXiv 2103.00020).

With 248 tokens of context and long captions this is Long-CLIP's setting without its short-caption branch.
"""

from __future__ import annotations

from collections.abc import Collection

from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.optimizers import OptimConfig
from lightning_modules.networks import EncoderConfig
from losses import ClipLoss


class ClipFinetune(Method):
    """L = CLIP(image, caption).

    Args:
        encoder: sizes of the towers; with ``pretrained`` they come from the checkpoint.
        optim: learning rates and schedule.
        pretrained: hub id, folder or file of a CLIP checkpoint to start from; None: from scratch.
        memory: how memory is saved.
    """

    def __init__(
        self,
        encoder: EncoderConfig = EncoderConfig(),
        optim: OptimConfig = OptimConfig(),
        pretrained: str | None = None,
        memory: MemoryConfig = MemoryConfig(),
    ) -> None:
        super().__init__(encoder, optim, pretrained, memory)
        self.clip = ClipLoss()

    @override
    def required_grains(self) -> Collection[Grain]:
        return (Grain.CAPTION,)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = features.of(batch.grains[Grain.CAPTION])[:, 0]
        return {"global": self.clip(features.images.image, captions, self.encoder.scale)}
