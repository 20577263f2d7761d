"""β-CLIP (arXiv 2512.12678): caption, sentences and phrases each pool the image's patches, and each is contrasted with
its own pooled view.

L = L_global + L_β-CAL. L_global is CLIP's loss between class token and caption. For β-CAL every text of an image, of
every grain, is a query: cross-attention over the patches gives the image as that text sees it, and the β-Contextualised
Contrastive Alignment Loss compares all K views with all K texts of all images. A view's own text is its positive
(weight α); the other texts of the same image are positives of strength β. At inference the pooling block is not used.

Where the default departs from the published code (``losses/beta_cal.py`` has the details): padded slots never act as
negatives, a text that also stands in another image is no negative there, and negatives come from all ranks with
gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import Batch, Grain
from lightning_modules.methods.base import Features, LossTerms, Method
from lightning_modules.methods.batch_indices import slots_of
from lightning_modules.methods.loss_weights import check_weight
from lightning_modules.networks import TextConditionedPooling
from lightning_modules.networks.normalize import unit
from losses import BetaCalLoss


@dataclass(frozen=True)
class GrainWeights:
    """Weight of a text in β-CAL by its grain; equal by default, as published, so that the many phrases dominate.

    Args:
        caption: weight of the caption.
        sentence: weight of each sentence.
        phrase: weight of each phrase.
    """

    caption: float = 1.0
    sentence: float = 1.0
    phrase: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_weight(f"grain_weights.{name}", value)


torch.serialization.add_safe_globals([GrainWeights])
GRAINS = (Grain.CAPTION, Grain.SENTENCE, Grain.PHRASE)


class PooledViews(NamedTuple):
    """A batch's texts and the views of their images: the arguments of β-CAL, in its order, but for the weights."""

    views: Float[Tensor, "B K D"]
    texts: Float[Tensor, "B K D"]
    valid: Bool[Tensor, "B K"]
    scale: Float[Tensor, " 1"]
    ids: Int[Tensor, "B K"]


def pool_views(
    pooling: TextConditionedPooling, batch: Batch, features: Features, published_padding: bool = False
) -> PooledViews:
    """Pool the patches once per text.

    Args:
        pooling: makes a view of an image for each of its texts.
        batch: whose captions, sentences and phrases are the K texts of an image, in the order of ``GRAINS``.
        features: of the batch.
        published_padding: every padded slot holds one vector, as in the published code, in place of some text's.
    """
    queries = slots_of(batch, GRAINS)
    texts, ids = features.texts_at(queries), batch.texts.ids[queries.index]
    if published_padding:
        start = batch.texts.offsets[queries.index[:1, 0]]  # of the first caption
        texts = torch.where(queries.valid[..., None], texts, unit(features.texts.tokens[start])[:, None])
    return PooledViews(pooling(texts, features.images.patches), texts, queries.valid, pooling.scale, ids)


class BetaClip(Method):
    """L = global_weight · CLIP(image, caption) + local_weight · β-CAL(views, texts).

    Args:
        objective: of β-CAL, ``ce`` (softmax; better at fine-grained tasks) or ``bce`` (sigmoid; better at long
            retrieval).
        beta: strength of same-image matches in [0, 1]: 0 tells all texts of an image apart, 1 treats them as equal.
        alpha: weight of a view's own text (CE).
        negatives: where β-CAL's negatives come from: ``all`` ranks, this ``rank``, or groups of so many images of it
            (the published code: 64, its batch on one GPU).
        normalize_by: BCE is a mean over valid ``pair``s (as published: its pull on a positive shrinks with the batch)
            or a sum over pairs divided by the valid ``row``s.
        bias: start of a learnable bias on BCE's logits (SigLIP: -10); None, as published: no bias.
        global_weight: weight of the global term.
        local_weight: weight of β-CAL; 0 leaves it out, and the pooling block with it.
        grain_weights: weight of a text in β-CAL by its grain.
        pooling_heads: attention heads of the pooling block.
        pooling_gain: the block starts as plain attention by similarity, sharpened by this gain (for training from
            scratch; see ``TextConditionedPooling.start_transparent``); None: at random, as in the paper.
        published_numerics: reproduce the published loss, its padding included (see ``losses/beta_cal.py``): a padded
            slot holds one vector that no text of the data has. There it is that of a lone "!" (padded phrases) or of a
            row of them (padded sentences); here it is the start token's for both, which is constant too in a causal
            text tower. In one that is not (SigLIP's) it is that of the first caption's first token.
        base: ``encoder``, ``optim``, ``pretrained``, ``memory``, ``freeze`` and ``lora``, as in ``Method``.

    Raises:
        ValueError: where an argument is out of its range.
    """

    extra_metric_groups = ("beta_cal_by_grain",)

    def __init__(
        self,
        objective: Literal["ce", "bce"] = "ce",
        beta: float = 0.5,
        alpha: float = 1.0,
        negatives: Literal["all", "rank"] | int = "all",
        normalize_by: Literal["pair", "row"] = "pair",
        bias: float | None = None,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
        grain_weights: GrainWeights = GrainWeights(),
        pooling_heads: int = 8,
        pooling_gain: float | None = None,
        published_numerics: bool = False,
        **base: Any,
    ) -> None:
        # Bad values stop here, before the encoder is built.
        beta_cal = BetaCalLoss(objective, beta, alpha, published_numerics, negatives, normalize_by, bias)
        check_weight("global_weight", global_weight)
        check_weight("local_weight", local_weight)
        if global_weight == local_weight == 0:
            raise ValueError("global_weight or local_weight must be above 0, got 0 for both")
        super().__init__(**base)
        self.beta_cal = beta_cal.requires_grad_(local_weight > 0)
        self.global_weight, self.local_weight = global_weight, local_weight
        self.grain_weights = None if grain_weights == GrainWeights() else grain_weights
        self.pooling = None
        if local_weight > 0:
            self.pooling = TextConditionedPooling(self.encoder.embed_dim, pooling_heads, pooling_gain)

    @override
    def required_grains(self) -> Collection[Grain]:
        return (Grain.CAPTION,) if self.pooling is None else GRAINS

    @override
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        captions = features.texts_at(batch.grains[Grain.CAPTION])[:, 0]
        terms = {"global": self.global_weight * self.contrast_globally(features.images.image, captions)}
        if self.pooling is not None:
            pooled = pool_views(self.pooling, batch, features, self.beta_cal.published_numerics)
            local = self.beta_cal(*pooled, self._weights(batch))
            terms["beta_cal"] = self.local_weight * local
        return terms

    def _weights(self, batch: Batch) -> Float[Tensor, "B K"] | None:
        if self.grain_weights is None:
            return None
        by_grain = asdict(self.grain_weights)
        return torch.cat([float(by_grain[g.value]) * batch.grains[g].valid for g in GRAINS], dim=1)

    @override
    def extra_metrics(self, batch: Batch, features: Features) -> LossTerms:
        """β-CAL over the rows of one grain only, unweighted; the published form has no such rows."""
        if self.beta_cal.published_numerics or self.pooling is None:
            return {}
        pooled, metrics = pool_views(self.pooling, batch, features), {}
        for grain in GRAINS:
            weights = torch.cat([(g == grain) * batch.grains[g].valid.float() for g in GRAINS], dim=1)
            metrics[f"beta_cal_by_grain/{grain.value}"] = self.beta_cal(*pooled, weights)
        return metrics

    @override
    def text_pooling(self) -> TextConditionedPooling | None:
        return self.pooling

    @override
    def target_matrices(self, valid: Bool[Tensor, "B K"]) -> dict[str, Float[Tensor, "B K K"]]:
        """Target matrices for a sweep of β that includes the method's own."""
        loss, matrices = self.beta_cal, {}
        for beta in sorted({0.0, 0.25, 0.5, 0.75, 1.0, loss.beta}):
            mark = " (this run)" if beta == loss.beta else ""
            matrices[f"β = {beta:g}{mark}"] = BetaCalLoss(loss.objective, beta, loss.alpha).targets(valid)
        return matrices

    @override
    def new_modules(self) -> Iterable[nn.Module]:
        return () if self.pooling is None else (self.pooling,)

    @override
    def logit_scales(self) -> dict[str, Float[Tensor, " 1"]]:
        scales = super().logit_scales()
        if self.pooling is not None:
            scales["pooling"] = self.pooling.scale
        return scales
