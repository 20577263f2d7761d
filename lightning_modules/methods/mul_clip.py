"""MulCLIP (arXiv 2512.07128): long caption and summary, words and patches, sentences and the regions they describe.

L = L_global + λ_W L_Word + λ_S L_Sub, λ_W = λ_S = 1.
- L_global = CLIP(v_cls, t_long) + 1/2 CLIP(v_cls, t_short): the image against its caption and against a summary.
- L_Word: patches and words, each condensed by token calibration, reconstruct each other in an image
  (`losses.word_patch`).
- L_Sub: each sentence gathers its patches, and the regions so formed are contrasted with the sentences over the batch,
  slot by slot (`losses.subcaption`).
Calibration, reconstruction and aggregation are used in training only; the trained model is a plain CLIP.

The authors have published no code, and their page leaves much open: the attention, its temperatures, the aggregation's
weights, the number of sentences, where the summary comes from. Each reading is an argument here or in the data's
`sampling` (which draws sentences and chooses the summary). The defaults are those that brought details at the
least cost in retrieval on the embedded scenes (`configs/study/search`): small weights, and patches and words as they
are. The paper has λ_W = λ_S = 1 and calibrated tokens (``calibration: {}``, ``patches: calibrated``). Where we add
something: equal summaries and equal sentences of different images are no negatives of each other. The patches keep to
themselves in the last block (`networks.image_tower`), as in all methods here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import Batch, Grain
from datamodules.batching.text_sampling import GrainSampling
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.loss_weights import check_scale, check_weight
from lightning_modules.methods.summaries import check_summaries, summaries
from lightning_modules.networks import TokenCalibration
from lightning_modules.networks.calibration import attention_perplexity, mean_cosine
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.temperature import Temperature
from losses import ClimLoss, PatchWeighting, SoftmaxWeights, SubcaptionLoss, WordPatchLoss
from losses.core.host_copies import on_device, on_host
from losses.subcaption import aggregate, patch_weights

SHARE = 0.2  # calibrated tokens per patch: 39 of 196, as in FineLIP


@dataclass(frozen=True)
class Calibration:
    """Settings of the token calibration, which condenses patches and words.

    Args:
        image_tokens: number of calibrated tokens of an image; None: a fifth of its patches.
        text_tokens: number of calibrated tokens of a caption; None: as many as of an image.
        gain: start of the factor on the attention's logits. 1, as published, makes all tokens nearly equal at the
            start; 10 to 40 separate them.
    """

    image_tokens: int | None = None
    text_tokens: int | None = None
    gain: float = 20.0


@dataclass(frozen=True)
class Reconstruction:
    """Settings of the reconstruction of patches from words and of words from patches.

    Args:
        attention: by ``cosine``; by cosine of learnt projections (``projected``); or through the other modality and
            back, so that each modality reconstructs itself (``cycle``).
        attention_temperature: divides the cosines of the attention.
        temperature: divides the cosines that are contrasted.
        symmetric: the contrast selects a token's reconstruction and a reconstruction's token; False: only the former.
    """

    attention: Literal["cosine", "projected", "cycle"] = "cosine"
    attention_temperature: float = 0.1
    temperature: float = 0.1
    symmetric: bool = True

    def loss(self, width: int) -> WordPatchLoss:
        """The loss for tokens of this width."""
        if self.attention not in ("cosine", "projected", "cycle"):
            raise ValueError(f"reconstruction.attention must be cosine, projected or cycle, got {self.attention!r}")
        rebuild = "cycle" if self.attention == "cycle" else "cross"
        projected = width if self.attention == "projected" else None
        return WordPatchLoss(self.attention_temperature, self.temperature, rebuild, self.symmetric, projected)


torch.serialization.add_safe_globals([Calibration, Reconstruction])


class CaptionTokens(NamedTuple):
    """Token features of each image's caption, SOT and content, without EOT; not normalised."""

    tokens: Float[Tensor, "B L D"]
    valid: Bool[Tensor, "B L"]


class MulClip(Method):
    """L = CLIP(image, caption) + short_weight CLIP(image, summary) + word_weight L_Word + subcaption_weight L_Sub.

    A term whose weight is 0 is not computed, nor are modules made that only it needs.

    Args:
        short_weight: weight of the summary's term; above 0 it needs ``data.sampling.summaries`` 1.
        word_weight: weight of L_Word.
        subcaption_weight: weight of L_Sub; above 0 it needs ``data.sampling.sentences`` of 1 or more.
        word_loss: L_Word is the ``reconstruction`` within each image, or FineLIP's ``clim`` over the batch, to compare.
        reconstruction: how patches and words reconstruct each other.
        calibration: how patches and words are condensed; None: they are not.
        aggregation: makes weights of the similarities of a sentence and the patches; None: ``losses.SoftmaxWeights()``.
        patches: what sentences gather: ``calibrated`` tokens (the plain patches where ``calibration`` is None), or
            ``raw`` patches.
        subcaption_temperature: of L_Sub: ``shared`` with the global terms; ``own``, learnt, which starts as theirs; or
            the logit scale at which its own starts.
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where an argument is out of its range.
    """

    extra_metric_groups = ("calibration", "reconstruction", "subcaption")

    def __init__(
        self,
        short_weight: float = 0.5,
        word_weight: float = 0.1,
        subcaption_weight: float = 0.1,
        word_loss: Literal["reconstruction", "clim"] = "reconstruction",
        reconstruction: Reconstruction = Reconstruction(),
        calibration: Calibration | None = Calibration(),
        aggregation: PatchWeighting | None = None,
        patches: Literal["calibrated", "raw"] = "raw",
        subcaption_temperature: Literal["own", "shared"] | float = "shared",
        **base: Any,
    ) -> None:
        weights = {"short_weight": short_weight, "word_weight": word_weight, "subcaption_weight": subcaption_weight}
        for name, weight in weights.items():
            check_weight(name, weight)
        if word_loss not in ("reconstruction", "clim"):
            raise ValueError(f"word_loss must be reconstruction or clim, got {word_loss!r}")
        if patches not in ("calibrated", "raw"):
            raise ValueError(f"patches must be calibrated or raw, got {patches!r}")
        if isinstance(subcaption_temperature, str) and subcaption_temperature not in ("own", "shared"):
            raise ValueError(f"subcaption_temperature must be own, shared or a number, got {subcaption_temperature!r}")
        super().__init__(**base)
        self.short_weight, self.word_weight, self.subcaption_weight = weights.values()
        self.subcaption = SubcaptionLoss()
        self.aggregation = SoftmaxWeights() if aggregation is None else aggregation
        self.patches = patches
        self.image_calibration, self.text_calibration = self._calibrations(calibration)
        start, largest, self.temperature = subcaption_temperature, self.encoder.temperature.largest, None
        if not isinstance(start, str):
            check_scale("subcaption_temperature", start, largest)
        if start != "shared" and subcaption_weight > 0:
            start = float(self.encoder.logit_scale.detach()) if start == "own" else start
            self.temperature = Temperature(start, largest)
        width, self.word_loss = self.encoder.embed_dim, None
        if word_weight > 0:
            self.word_loss = ClimLoss() if word_loss == "clim" else reconstruction.loss(width)

    def _calibrations(self, settings: Calibration | None) -> tuple[TokenCalibration | None, TokenCalibration | None]:
        """The image's and the text's calibration; None where no term needs it."""
        if settings is None:
            return None, None
        width, patches = self.encoder.embed_dim, math.prod(self.encoder.grid)
        image_tokens = max(1, int(SHARE * patches)) if settings.image_tokens is None else settings.image_tokens
        text_tokens = image_tokens if settings.text_tokens is None else settings.text_tokens
        needs_image = self.word_weight > 0 or (self.subcaption_weight > 0 and self.patches == "calibrated")
        return (
            TokenCalibration(width, image_tokens, settings.gain) if needs_image else None,
            TokenCalibration(width, text_tokens, settings.gain) if self.word_weight > 0 else None,
        )

    @override
    def required_grains(self) -> Collection[Grain]:
        weights = {Grain.CAPTION: 1.0, Grain.SUMMARY: self.short_weight, Grain.SENTENCE: self.subcaption_weight}
        return [grain for grain, weight in weights.items() if weight > 0]

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        image = features.images.image
        captions, sentences = batch.grains[Grain.CAPTION], batch.grains[Grain.SENTENCE]
        terms = {"global": self.contrast_globally(image, features.texts_at(captions)[:, 0])}
        if self.short_weight > 0:
            terms["short"] = self.short_weight * self.contrast_globally(image, *summaries(batch, features))
        patches = self.image_tokens(features)
        if self.word_loss is not None:
            terms["word_patch"] = self.word_weight * self.word_loss(patches, *self.text_tokens(batch, features))
        if self.subcaption_weight > 0:
            texts, ids = features.texts_at(sentences), batch.texts.ids[sentences.index]
            source = features.images.patches if self.patches == "raw" else patches
            regions = aggregate(source, texts, sentences.valid, self.aggregation)
            scale = self.encoder.logit_scale if self.temperature is None else self.temperature()
            terms["subcaption"] = self.subcaption_weight * self.subcaption(regions, texts, sentences.valid, scale, ids)
        return terms

    @override
    def logit_scales(self) -> dict[str, Float[Tensor, " 1"]]:
        own = {} if self.temperature is None else {"subcaption": self.temperature()}
        return {**super().logit_scales(), **own}

    def image_tokens(self, features: Features) -> Float[Tensor, "B N D"]:
        """An image's calibrated tokens V', or its patches; unit norm."""
        if self.image_calibration is None:
            return features.images.patches
        return self.image_calibration(features.images.tokens).tokens

    def text_tokens(
        self, batch: Batch, features: Features
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """A caption's calibrated tokens T', or its words with their mask; unit norm."""
        words = caption_words(batch, features)
        if self.text_calibration is None:
            return unit(words.tokens), words.valid
        return self.text_calibration(*words).tokens, None

    @override
    def extra_metrics(self, batch: Batch, features: Features) -> LossTerms:
        """Mean cosine of the calibrated tokens and perplexity of the attentions, of sentences to patches too."""
        metrics: LossTerms = {}
        words = caption_words(batch, features)
        inputs = {"image": (self.image_calibration, (features.images.tokens,)), "text": (self.text_calibration, words)}
        for name, (calibration, tokens) in inputs.items():
            if calibration is not None:
                calibrated = calibration(*tokens)
                metrics[f"calibration/token_cosine/{name}"] = mean_cosine(calibrated.tokens)
                metrics[f"calibration/attention_perplexity/{name}"] = attention_perplexity(calibrated.attention).mean()
        if isinstance(self.word_loss, WordPatchLoss):
            tokens, valid = self.text_tokens(batch, features)
            at_text, at_image = self.word_loss.attention(self.image_tokens(features), tokens, valid)
            text_perplexity = attention_perplexity(at_image)
            text_perplexity = text_perplexity if valid is None else text_perplexity[valid]
            metrics["reconstruction/attention_perplexity/image"] = attention_perplexity(at_text).mean()
            metrics["reconstruction/attention_perplexity/text"] = text_perplexity.mean()
        if self.subcaption_weight > 0:
            sentences = batch.grains[Grain.SENTENCE]
            source = features.images.patches if self.patches == "raw" else self.image_tokens(features)
            weights = patch_weights(source, features.texts_at(sentences), sentences.valid, self.aggregation)
            metrics["subcaption/attention_perplexity"] = attention_perplexity(weights)[sentences.valid].mean()
        return metrics

    @override
    def on_fit_start(self) -> None:
        """Stop where the data samples no sentences or summaries though a term needs them."""
        sampling = getattr(vars(self.trainer).get("datamodule"), "sampling", None)
        if self.subcaption_weight > 0 and isinstance(sampling, GrainSampling) and sampling.sentences == 0:
            raise MethodError("data.sampling.sentences must be 1 or more where subcaption_weight is above 0, got 0")
        if self.short_weight > 0 and isinstance(sampling, GrainSampling):
            check_summaries(sampling)

    @override
    def new_modules(self) -> Iterable[nn.Module]:
        return (m for m in (self.image_calibration, self.text_calibration, self.word_loss) if m is not None)


def caption_words(batch: Batch, features: Features) -> CaptionTokens:
    """Token features of all captions, from the pass that encoded the batch."""
    tokens = features.texts.tokens
    caption, offsets = on_host(batch.grains[Grain.CAPTION].index)[:, 0], on_host(batch.texts.offsets)
    first, lengths = offsets[caption], offsets[caption + 1] - 1 - offsets[caption]
    position = np.arange(lengths.max() if len(lengths) else 1)
    valid = position < lengths[:, None]
    places = on_device(np.where(valid, first[:, None] + position, 0), tokens.device)
    return CaptionTokens(tokens[places], on_device(valid, tokens.device))
