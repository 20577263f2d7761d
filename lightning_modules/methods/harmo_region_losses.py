"""Losses on regions' features: readings of HarmoCLIP's "Global-Region alignment", whose equation is not public to us.

The likeliest is real-time distillation (`CropTarget`): the region, pooled from the dense features, should equal the
class token of a crop around it, as in CLIPSelf, FineCLIP and GOAL. "Direct region-to-text supervision" may also mean a
contrast of regions and their phrases (`PhraseTarget`, FineCLIP's and FG-CLIP's regional loss), and the name alone could
mean the region and its whole image (`ImageTarget`). They can be combined, several of a kind too, each with its weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features
from lightning_modules.methods.loss_weights import check_weight
from losses import GlobalRegionLoss, LexemeRegionLoss
from losses.core.contrastive import Scalar
from losses.core.host_copies import derived, on_device, on_host
from losses.core.pairs import Negatives, check_negatives
from losses.lexeme_region import SameLemma


class RegionInputs(NamedTuple):
    """Inputs of the region losses."""

    batch: Batch
    features: Features
    regions: Float[Tensor, "R D"]  # unit norm, one for each row of ``batch.regions``
    scale: Scalar  # logit scale of regions and texts
    encode_crops: Callable[[Literal["self_detached", "trained", "frozen"]], Float[Tensor, "C D"]]


class LinkedPhrases(NamedTuple):
    """The phrases with a link to a region, each once."""

    image: Int[Tensor, " Q"]
    slot: Int[Tensor, " Q"]  # among the phrases of the image
    links: Int[Tensor, "M 2"]  # (region, phrase), as rows

    @classmethod
    def of(cls, batch: Batch, usable: Bool[np.ndarray, "B K"] | None = None) -> LinkedPhrases:
        """The linked phrases of ``batch``; with ``usable`` [B, K] only those of its true slots."""
        row, slot = on_host(batch.regions.links).T
        image, device = on_host(batch.regions.image)[row], batch.regions.links.device
        if usable is not None:
            keep = usable[image, slot]
            row, slot, image = row[keep], slot[keep], image[keep]
        width = batch.grains[Grain.PHRASE].index.shape[1]
        phrase, phrase_row = np.unique(image * width + slot, return_inverse=True)
        links = np.stack([row, phrase_row.reshape(-1)], 1)
        return cls(*(on_device(part, device) for part in (phrase // width, phrase % width, links)))

    def pick(self, slots: Shaped[Tensor, "B K *D"]) -> Shaped[Tensor, " Q *D"]:
        """Each phrase's entry of a table of all phrase slots."""
        return derived(lambda table, image, slot: table[image, slot], slots, self.image, self.slot)


def contrast_phrases(
    contrast: LexemeRegionLoss, batch: Batch, features: Features, regions: Float[Tensor, "R D"], scale: Scalar
) -> Float[Tensor, ""]:
    """Contrast of regions, a unit vector for each row of ``batch.regions``, and the phrases that name them, each
    encoded by itself.
    """
    phrases = LinkedPhrases.of(batch)
    vectors = features.texts_at(batch.grains[Grain.PHRASE])[phrases.image, phrases.slot]
    lemma = phrases.pick(batch.lexemes.lemma)
    return contrast(regions, vectors, phrases.links, scale, lemma, batch.regions.image, phrases.image)


class RegionTarget(ABC):
    """A loss on regions."""

    name: str
    weight: float

    @abstractmethod
    def loss(self, inputs: RegionInputs) -> Float[Tensor, ""]:
        """The unweighted loss, scaled so that its mean over ranks is that of the whole batch."""


def term_names(losses: Iterable[RegionTarget]) -> list[str]:
    """A name for each loss: ``region_crop``, and ``region_crop_2`` for the second of that kind."""
    seen, names = Counter[str](), list[str]()
    for loss in losses:
        seen[loss.name] += 1
        names.append(f"region_{loss.name}" + (f"_{seen[loss.name]}" if seen[loss.name] > 1 else ""))
    return names


@dataclass(frozen=True)
class CropTarget(RegionTarget):
    """mean (1 - cos(region, class token of its crop))^power.

    Needs ``data.regions.crops``, which also sets how much of the surroundings a crop shows.

    Args:
        weight: of the term.
        teacher: encoder of the crop: the model itself, ``self_detached`` (no gradient through the crop's feature) or
            ``trained`` (FineCLIP); or the model as it was at the start (``frozen``, CLIPSelf).
        power: 1 as in CLIPSelf and FineCLIP, 2 as in GOAL.
        student_share: with a frozen teacher, validation and export use interpolated weights: this share of the
            student's, the rest the teacher's (CLIPSelf: 0.7 for B/16, 0.95 for L/14); 1: the student alone.
    """

    weight: float = 1.0
    teacher: Literal["self_detached", "trained", "frozen"] = "self_detached"
    power: float = 1.0
    student_share: float = 1.0

    name = "crop"

    def __post_init__(self) -> None:
        check_weight("region_losses.weight", self.weight)
        if self.teacher not in ("self_detached", "trained", "frozen"):
            raise ValueError(f"region_losses.teacher must be self_detached, trained or frozen, got {self.teacher!r}")
        if not (math.isfinite(self.power) and self.power > 0):
            raise ValueError(f"region_losses.power must be positive and finite, got {self.power}")
        if not 0 < self.student_share <= 1:
            raise ValueError(f"region_losses.student_share must lie in (0, 1], got {self.student_share}")
        if self.student_share < 1 and self.teacher != "frozen":
            raise ValueError(
                f"region_losses.student_share is for a frozen teacher, got {self.student_share} without one"
            )

    @override
    def loss(self, inputs: RegionInputs) -> Float[Tensor, ""]:
        crops = inputs.batch.crops.region
        return GlobalRegionLoss(self.power)(inputs.regions[crops], inputs.encode_crops(self.teacher))


@dataclass(frozen=True)
class PhraseTarget(RegionTarget):
    """Regions against their phrases, each phrase encoded by itself (EOT): FineCLIP's and FG-CLIP's regional contrast.

    Args:
        weight: of the term.
        same_lemma: how a region treats other regions' phrases of an equal lemma: ``ignore``, ``positive`` or
            ``negative``.
        negatives: where negatives come from, as in ``losses.LexemeRegionLoss``.
    """

    weight: float = 1.0
    same_lemma: SameLemma = "ignore"
    negatives: Negatives = "all"

    name = "phrase"

    def __post_init__(self) -> None:
        check_weight("region_losses.weight", self.weight)
        check_negatives(self.negatives)
        LexemeRegionLoss(self.same_lemma, self.negatives)

    @override
    def loss(self, inputs: RegionInputs) -> Float[Tensor, ""]:
        contrast = LexemeRegionLoss(self.same_lemma, self.negatives)
        return contrast_phrases(contrast, inputs.batch, inputs.features, inputs.regions, inputs.scale)


@dataclass(frozen=True)
class ImageTarget(RegionTarget):
    """mean (1 - cos(region, its image))^power; no gradient through the image's feature.

    Args:
        weight: of the term.
        power: of the cosine distance.
    """

    weight: float = 1.0
    power: float = 1.0

    name = "image"

    def __post_init__(self) -> None:
        check_weight("region_losses.weight", self.weight)
        GlobalRegionLoss(self.power)

    @override
    def loss(self, inputs: RegionInputs) -> Float[Tensor, ""]:
        images = inputs.features.images.image.detach()
        return GlobalRegionLoss(self.power)(inputs.regions, images[inputs.batch.regions.image])


torch.serialization.add_safe_globals([CropTarget, PhraseTarget, ImageTarget])  # checkpoints contain them
