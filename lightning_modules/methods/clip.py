"""CLIP fine-tuning, the baseline: whole image against whole caption (Radford et al., arXiv 2103.00020).

With 248 tokens of context and long captions this is Long-CLIP's setting without its short-caption branch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.optimizers import OptimConfig
from lightning_modules.networks import EncoderConfig
from losses import ClipLoss


class ClipFinetune(Method):
    """L = CLIP(image, text), where the text is the caption or the summary.

    Args:
        encoder: sizes of the towers; with ``pretrained`` they come from the checkpoint.
        optim: learning rates and schedule.
        pretrained: hub id, folder or file of a CLIP checkpoint to start from; None: from scratch.
        memory: how memory is saved.
        grain: which text of an image is learnt from: its ``caption``, or its ``summary`` alone, as CLIP itself was.

    Raises:
        ValueError: ``grain`` is another word.
    """

    def __init__(
        self,
        encoder: EncoderConfig = EncoderConfig(),
        optim: OptimConfig = OptimConfig(),
        pretrained: str | None = None,
        memory: MemoryConfig = MemoryConfig(),
        grain: Literal["caption", "summary"] = "caption",
    ) -> None:
        super().__init__(encoder, optim, pretrained, memory)
        if grain not in ("caption", "summary"):
            raise ValueError(f"grain must be 'caption' or 'summary', got {grain!r}")
        self.grain = Grain[grain.upper()]
        self.clip = ClipLoss()

    @override
    def required_grains(self) -> Collection[Grain]:
        return (self.grain,)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        texts = features.texts_at(batch.grains[self.grain])[:, 0]
        return {"global": self.clip(features.images.image, texts, self.encoder.scale)}
