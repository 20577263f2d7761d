"""HarmoCLIP-style training (after arXiv 2511.22594, reconstructed): global, lexeme-region and global-region losses.

L = λ_G L_GC + λ_L L_LRC + sum of the region losses L_GR
- L_GC is CLIP's loss between image and caption.
- L_LRC contrasts lexemes, the caption's words that name something, with the regions that they name
  (`losses.lexeme_region`). Lexemes are encoded as phrases, or are the caption's token features; regions are pooled from
  dense features by RoIAlign.
- L_GR pulls a region's feature towards a target (`harmo_region_losses`).
The claim to test is harmony: better local features at no cost to global ones.

Only title, abstract and a summary of the paper are public to us: no equation, weight or table. The names of the three
losses, "text token space" and direct region-to-text supervision are the paper's; everything else follows the methods
it builds on (CLIPSelf, FineCLIP, FG-CLIP, RegionCLIP, GOAL). The default is the reading that brought local skill at the
least cost on the embedded scenes (`configs/study/search`): each lexeme is encoded by itself, its weight is small; the
others are arguments. Results are those of a HarmoCLIP-style method, never a replication. At inference the model is a
plain CLIP.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.checkpoints.weight_interpolation import interpolated
from lightning_modules.distributed.wrapping import calls_on_all_ranks
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.gradient_cache import replayed
from lightning_modules.methods.harmo_region_losses import (
    CropTarget,
    ImageTarget,
    LinkedPhrases,
    PhraseTarget,
    RegionInputs,
    RegionTarget,
    term_names,
)
from lightning_modules.methods.loss_weights import check_scale, check_weight
from lightning_modules.networks import Encoder, pool_regions
from lightning_modules.networks.lexemes import pool_lexemes
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.temperature import Temperature
from losses import LexemeRegionLoss
from losses.core.host_copies import on_host
from losses.core.pairs import Negatives
from losses.lexeme_region import SameLemma


class HarmoClip(Method):
    """L = global_weight · CLIP(image, caption) + lexeme_weight · LRC + the region losses.

    Args:
        global_weight: weight of CLIP's loss.
        lexeme_weight: weight of the contrast of lexemes and regions; 0 leaves it out.
        region_losses: losses on the regions' features; None: ``[CropTarget()]``, []: none.
        lexeme: a lexeme's feature is the ``mean`` of its tokens in the caption, its ``last`` token there, or the
            ``phrase`` encoded by itself.
        lexeme_projection: lexemes stay in the texts' ``shared`` space, or pass a linear projection of their ``own``,
            which starts as the identity.
        same_lemma: how a region treats other regions' lexemes of an equal lemma: ``ignore``, ``positive`` or
            ``negative``.
        negatives: where the contrast's negatives come from: ``all`` ranks, this ``rank``, or groups of so many of its
            images (1: within an image).
        temperature: lexemes and regions have their ``own`` (FG-CLIP), which starts where CLIP's stands, or CLIP's
            (``shared``, FineCLIP); or their own, whose factor on the cosines starts at this number (features that are
            not aligned yet learn badly at a trained CLIP's 100).
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where an argument is out of its range.
    """

    extra_metric_groups = ("regions",)

    def __init__(
        self,
        global_weight: float = 1.0,
        lexeme_weight: float = 0.05,
        region_losses: list[RegionTarget] | None = None,
        lexeme: Literal["mean", "last", "phrase"] = "phrase",
        lexeme_projection: Literal["shared", "own"] = "shared",
        same_lemma: SameLemma = "ignore",
        negatives: Negatives = "all",
        temperature: Literal["own", "shared"] | float = "own",
        **base: Any,
    ) -> None:
        check_weight("global_weight", global_weight)
        check_weight("lexeme_weight", lexeme_weight)
        for name, value, choices in (
            ("lexeme", lexeme, ("mean", "last", "phrase")),
            ("lexeme_projection", lexeme_projection, ("shared", "own")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        if isinstance(temperature, str) and temperature not in ("own", "shared"):
            raise ValueError(f"temperature must be own, shared or a number, got {temperature!r}")
        region_losses = [CropTarget()] if region_losses is None else region_losses
        if not any([global_weight, lexeme_weight, *(loss.weight for loss in region_losses)]):
            raise ValueError("global_weight, lexeme_weight or a region loss's weight must be above 0, got 0 for all")
        contrast = LexemeRegionLoss(same_lemma, negatives)
        super().__init__(**base)
        self.global_weight, self.lexeme_weight = global_weight, lexeme_weight
        self.lexeme: Literal["mean", "last", "phrase"] = lexeme
        self.region_losses: Sequence[RegionTarget] = region_losses
        self.contrast = contrast
        width = self.encoder.embed_dim
        self.projection = None
        if lexeme_projection == "own" and lexeme_weight > 0:
            self.projection = nn.Linear(width, width, bias=False)
            nn.init.eye_(self.projection.weight)
        largest = self.encoder.temperature.largest
        if not isinstance(temperature, str):
            check_scale("temperature", temperature, largest)
        start = float(self.encoder.logit_scale.detach()) if isinstance(temperature, str) else temperature
        self.contrasts = lexeme_weight > 0 or any(isinstance(loss, PhraseTarget) for loss in self.region_losses)
        self.temperature = Temperature(start, largest) if self.contrasts and temperature != "shared" else None
        self.crop_losses = [loss for loss in self.region_losses if isinstance(loss, CropTarget)]
        frozen = [loss for loss in self.crop_losses if loss.teacher == "frozen"]
        self.student_share = min((loss.student_share for loss in frozen), default=1.0)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False).eval() if frozen else None

    @override
    def train(self, mode: bool = True) -> HarmoClip:
        """Training or evaluation mode; a frozen teacher stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    @override
    def required_grains(self) -> Collection[Grain]:
        phrase_lexemes = self.lexeme == "phrase" and self.lexeme_weight > 0
        needs_phrases = phrase_lexemes or any(isinstance(loss, PhraseTarget) for loss in self.region_losses)
        return (Grain.CAPTION, Grain.PHRASE) if needs_phrases else (Grain.CAPTION,)

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = features.texts_at(batch.grains[Grain.CAPTION])[:, 0]
        terms = {"global": self.global_weight * self.contrast_globally(features.images.image, captions)}
        regions = pool_regions(features.images.dense, batch.regions.boxes, batch.regions.image)
        if self.lexeme_weight > 0:
            terms["lexeme_region"] = self.lexeme_weight * self._lexeme_region(batch, features, regions)
        inputs = RegionInputs(
            batch, features, regions, self.region_scale(), lambda teacher: self._encode_crops(batch, teacher)
        )
        for name, region_loss in zip(term_names(self.region_losses), self.region_losses, strict=True):
            terms[name] = region_loss.weight * region_loss.loss(inputs)
        return terms

    def _lexeme_region(self, batch: Batch, features: Features, regions: Float[Tensor, "R D"]) -> Float[Tensor, ""]:
        span = on_host(batch.lexemes.span)
        phrases = LinkedPhrases.of(batch, None if self.lexeme == "phrase" else span[..., 1] > span[..., 0])
        slots = phrases.image, phrases.slot
        if self.lexeme == "phrase":
            lexemes = features.texts_at(batch.grains[Grain.PHRASE])[slots]
        else:
            caption = batch.grains[Grain.CAPTION].index[phrases.image, 0]
            spans = phrases.pick(batch.lexemes.span)
            lexemes = pool_lexemes(features.texts.tokens, batch.texts.offsets[caption], spans, self.lexeme)
        if self.projection is not None:
            lexemes = unit(self.projection(lexemes.to(self.projection.weight.dtype)))
        lemma = phrases.pick(batch.lexemes.lemma)
        scale = self.region_scale()
        return self.contrast(regions, lexemes, phrases.links, scale, lemma, batch.regions.image, phrases.image)

    def region_scale(self) -> Float[Tensor, " 1"]:
        """The logit scale of regions and texts."""
        return self.encoder.logit_scale if self.temperature is None else self.temperature()

    def _encode_crops(
        self, batch: Batch, teacher: Literal["self_detached", "trained", "frozen"]
    ) -> Float[Tensor, "C D"]:
        """Image embeddings of the crops."""
        encoder = self.teacher if teacher == "frozen" and self.teacher is not None else self.encoder
        trained, chunk = teacher == "trained" and torch.is_grad_enabled(), self.memory.grad_cache_chunk
        encode = encoder.encode_image
        if trained and chunk is not None:
            encode = partial(replayed, encode)
        parts = batch.crops.pixels.split(chunk or max(1, len(batch.images)))
        missing = calls_on_all_ranks(encoder, len(parts)) - len(parts)
        with torch.set_grad_enabled(trained):
            crops = [encode(part, dense=False).image for part in parts]
            one = batch.images[:1]  # keeps ranks in step
            crops += [encode(one, dense=False).image[:0] for _ in range(missing)]
            return torch.cat(crops)

    @override
    def extra_metrics(self, batch: Batch, features: Features) -> LossTerms:
        """Linked boxes and lexemes per image, and the share of linked lexemes that the context cut off."""
        images, device = len(batch.images), batch.images.device
        phrases = LinkedPhrases.of(batch)
        span = batch.lexemes.span[phrases.image, phrases.slot]
        truncated = (span[:, 1] <= span[:, 0]).float().sum() / max(len(span), 1)
        boxes = torch.tensor(len(phrases.links[:, 0].unique()) / images, device=device)
        return {
            "regions/boxes_per_image": boxes,
            "regions/lexemes_per_image": torch.tensor(len(span) / images, device=device),
            "regions/truncated_lexeme_share": truncated,
        }

    @override
    def brought(self, batch: Batch) -> dict[str, Tensor | int]:
        counts = super().brought(batch)
        if self.contrasts:
            counts["boxes with a phrase"] = len(batch.regions.links)
        if any(isinstance(loss, ImageTarget) for loss in self.region_losses):
            counts["boxes"] = len(batch.regions.boxes)
        if self.crop_losses:
            counts["crops of boxes"] = len(batch.crops.region)
        return counts

    @override
    def further_images(self, batch: Batch) -> float:
        return len(batch.crops.region) * sum(1.0 if loss.teacher == "trained" else 1 / 3 for loss in self.crop_losses)

    @override
    def remedy(self, name: str) -> str:
        if "boxes" not in name:
            return super().remedy(name)
        return "use shards with boxes, or switch off what needs them: model.lexeme_weight 0, model.region_losses []"

    @override
    def on_fit_start(self) -> None:
        """Stop where the data samples none of the inputs that a term needs."""
        data = vars(self.trainer).get("datamodule")
        sampling, regions = getattr(data, "sampling", None), getattr(data, "regions", None)
        if sampling is None or regions is None:
            return
        if self.lexeme_weight > 0 and sampling.phrases == 0:
            raise MethodError("data.sampling.phrases must be 1 or more where lexeme_weight is above 0, got 0")
        if self.lexeme_weight > 0 and self.lexeme != "phrase" and sampling.caption == "sampled":
            raise MethodError("data.sampling.caption must be whole for lexemes to be found in it, got sampled")
        if self.crop_losses and regions.crops == 0:
            raise MethodError("data.regions.crops must be 1 or more for CropTarget, got 0")

    @override
    def new_modules(self) -> Iterable[nn.Module]:
        return () if self.projection is None else (self.projection,)

    @override
    def logit_scales(self) -> dict[str, Float[Tensor, " 1"]]:
        return {**super().logit_scales(), "region": self.region_scale()} if self.contrasts else super().logit_scales()

    @override
    def inference_encoder(self) -> Encoder:
        if self.teacher is None or self.student_share == 1:
            return self.encoder
        return interpolated(self.encoder, self.teacher, self.student_share)
