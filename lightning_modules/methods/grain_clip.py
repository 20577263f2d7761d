"""GrainClip: one method that joins the terms of three papers' methods.

L = L_global + λ_s L_short + λ_β L_β-CAL + λ_R L_region + λ_S L_sentence
- L_global is CLIP's loss between image and caption, L_short that between image and summary (as in MulCLIP).
- L_β-CAL (β-CLIP, arXiv 2512.12678, CE): caption, sentences and phrases each pool the patches, and all pooled views of
  all images are compared with all texts. It teaches which patches a text describes, without boxes.
- L_region (after HarmoCLIP, arXiv 2511.22594, reconstructed): boxes, pooled from the dense features by RoIAlign,
  against the phrases that name them, over the whole batch.
- L_sentence (MulCLIP's L_Sub, arXiv 2512.07128): each sentence gathers its patches, and the regions so formed are
  contrasted with the sentences. It uses the images without a box that a phrase names: where boxes are annotated,
  regions need not be guessed.

None of the papers combines them. At inference the model is a plain CLIP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.beta_clip import pool_views
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.harmo_region_losses import contrast_phrases
from lightning_modules.methods.loss_weights import check_weight
from lightning_modules.methods.summaries import check_summaries, summaries
from lightning_modules.networks import TextConditionedPooling, pool_regions
from lightning_modules.networks.temperature import Temperature
from losses import BetaCalLoss, LexemeRegionLoss, SoftmaxWeights, SubcaptionLoss
from losses.core.host_copies import derived, on_device, on_host
from losses.lexeme_region import SameLemma
from losses.subcaption import aggregate


class GrainClip(Method):
    """L = CLIP(image, caption) + short_weight · CLIP(image, summary) + local_weight · β-CAL + region_weight · (boxes,
    phrases) + sentence_weight · (patches, sentences).

    A term whose weight is 0 is not computed, nor are modules made that only it needs.

    Args:
        short_weight: weight of the summary's term; above 0 it needs ``data.sampling.summaries`` 1.
        local_weight: weight of β-CAL.
        region_weight: weight of the contrast of boxes and phrases.
        sentence_weight: weight of the contrast of sentences and the patches that they gather; of the images without a
            box that a phrase names, or of all where ``region_weight`` is 0.
        beta: strength of same-image matches in β-CAL, in [0, 1].
        same_lemma: how a box treats phrases of an equal lemma in other images: ``ignore``, ``positive`` or
            ``negative``.
        pooling_heads: attention heads of β-CAL's pooling block.
        pooling_gain: the block starts as attention by similarity, sharpened by this gain; None: at random, as β-CLIP.
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where an argument is out of its range.
    """

    extra_metric_groups = ("regions",)

    def __init__(
        self,
        short_weight: float = 0.5,
        local_weight: float = 1.0,
        region_weight: float = 0.2,
        sentence_weight: float = 0.05,
        beta: float = 0.5,
        same_lemma: SameLemma = "ignore",
        pooling_heads: int = 8,
        pooling_gain: float | None = None,
        **base: Any,
    ) -> None:
        weights = {
            "short_weight": short_weight, "local_weight": local_weight, "region_weight": region_weight,
            "sentence_weight": sentence_weight,
        }  # fmt: skip
        for name, weight in weights.items():
            check_weight(name, weight)
        beta_cal, contrast = BetaCalLoss("ce", beta), LexemeRegionLoss(same_lemma)  # bad values stop here, first
        super().__init__(**base)
        self.short_weight, self.local_weight, self.region_weight, self.sentence_weight = weights.values()
        self.beta_cal, self.contrast, self.subcaption = beta_cal, contrast, SubcaptionLoss()
        self.aggregation = SoftmaxWeights()
        self.pooling = None
        if local_weight > 0:
            self.pooling = TextConditionedPooling(self.encoder.embed_dim, pooling_heads, pooling_gain)
        start, largest = float(self.encoder.logit_scale.detach()), self.encoder.temperature.largest
        self.region_temperature = Temperature(start, largest) if region_weight > 0 else None

    @override
    def required_grains(self) -> Collection[Grain]:
        weights = {
            Grain.CAPTION: 1.0,
            Grain.SUMMARY: self.short_weight,
            Grain.SENTENCE: self.local_weight + self.sentence_weight,
            Grain.PHRASE: self.local_weight + self.region_weight,
        }
        return [grain for grain, weight in weights.items() if weight > 0]

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = features.texts_at(batch.grains[Grain.CAPTION])[:, 0]
        terms = {"global": self.contrast_globally(features.images.image, captions)}
        if self.short_weight > 0:
            short = self.contrast_globally(features.images.image, *summaries(batch, features))
            terms["short"] = self.short_weight * short
        if self.pooling is not None:
            terms["beta_cal"] = self.local_weight * self.beta_cal(*pool_views(self.pooling, batch, features))
        if self.region_temperature is not None:
            terms["region"] = self.region_weight * self._region(self.region_temperature(), batch, features)
        if self.sentence_weight > 0:
            terms["sentence"] = self.sentence_weight * self._sentence(batch, features)
        return terms

    def _region(self, scale: Float[Tensor, " 1"], batch: Batch, features: Features) -> Float[Tensor, ""]:
        regions = pool_regions(features.images.dense, batch.regions.boxes, batch.regions.image)
        return contrast_phrases(self.contrast, batch, features, regions, scale)

    def _sentence(self, batch: Batch, features: Features) -> Float[Tensor, ""]:
        sentences = batch.grains[Grain.SENTENCE]
        texts, ids = features.texts_at(sentences), batch.texts.ids[sentences.index]
        valid = derived(lambda mask, boxed: mask & ~boxed[:, None], sentences.valid, self._boxed(batch))
        gathered = aggregate(features.images.patches, texts, valid, self.aggregation)
        return self.subcaption(gathered, texts, valid, self.encoder.logit_scale, ids)

    def _boxed(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Images with a box that a phrase names; none where boxes are not used."""
        boxed = np.zeros(len(batch.images), dtype=bool)
        if self.region_temperature is not None:
            boxed[on_host(batch.regions.image)[on_host(batch.regions.links)[:, 0]]] = True
        return on_device(boxed, batch.images.device)

    @override
    def extra_metrics(self, batch: Batch, features: Features) -> LossTerms:
        """The share of images with a box that a phrase names."""
        return {"regions/boxed_image_share": self._boxed(batch).float().mean()}

    @override
    def on_fit_start(self) -> None:
        """Stop where the data samples none of the texts that a term needs."""
        sampling = getattr(vars(self.trainer).get("datamodule"), "sampling", None)
        if sampling is None:
            return
        if self.short_weight > 0:
            check_summaries(sampling)
        if self.sentence_weight > 0 and sampling.sentences == 0:
            raise MethodError("data.sampling.sentences must be 1 or more where sentence_weight is above 0, got 0")
        if self.region_weight > 0 and sampling.phrases == 0:
            raise MethodError("data.sampling.phrases must be 1 or more where region_weight is above 0, got 0")

    @override
    def text_pooling(self) -> TextConditionedPooling | None:
        return self.pooling

    @override
    def target_matrices(self, valid: Bool[Tensor, "B K"]) -> dict[str, Float[Tensor, "B K K"]]:
        return {f"β = {self.beta_cal.beta:g} (this run)": self.beta_cal.targets(valid)}

    @override
    def new_modules(self) -> Iterable[nn.Module]:
        return () if self.pooling is None else (self.pooling,)

    @override
    def logit_scales(self) -> dict[str, Float[Tensor, " 1"]]:
        scales = super().logit_scales()
        if self.pooling is not None:
            scales["pooling"] = self.pooling.scale
        if self.region_temperature is not None:
            scales["region"] = self.region_temperature()
        return scales
