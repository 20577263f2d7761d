"""CLIP fine-tuning, the baseline: whole image against whole caption (Radford et al., arXiv 2103.00020).

With 248 tokens of context and long captions this is Long-CLIP's setting without its short-caption branch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.data_check import check_sampled
from losses.core.host_copies import derived


class ClipFinetune(Method):
    """L = CLIP(image, text), where the text is the caption or the summary.

    Args:
        grain: text of an image that is used: its ``caption``, or its ``summary`` alone, as in CLIP's own training (it
            needs ``data.sampling.summaries`` 1; an image without one is left out).
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where ``grain`` is neither of these.
    """

    needs_dense = False

    def __init__(self, grain: Literal["caption", "summary"] = "caption", **base: Any) -> None:
        if grain not in ("caption", "summary"):
            raise ValueError(f"grain must be 'caption' or 'summary', got {grain!r}")
        super().__init__(**base)
        self.grain = Grain[grain.upper()]

    @override
    def required_grains(self) -> Collection[Grain]:
        return (self.grain,)

    @override
    def on_fit_start(self) -> None:
        """Stop where the data samples none of a grain."""
        check_sampled(self)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        slots = batch.grains[self.grain]
        valid = derived(lambda mask: mask[:, 0], slots.valid)
        return {"global": self.contrast_globally(features.images.image, features.texts_at(slots)[:, 0], valid)}
