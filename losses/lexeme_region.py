"""Lexeme-Region Contrast of HarmoCLIP-style training (after arXiv 2511.22594; reconstructed, see below).

Regions r meet lexemes l, the words of a caption that name something, over the images of the whole batch. Y links them,
many to many: a box may be named twice ("a man ... he"), a word may name several boxes ("two dogs").

    S = scale r.l,   L_r = -mean_p log [ sum_q Y_pq e^{S_pq} / sum_q M_pq e^{S_pq} ],   L_l alike over columns,
    L = (L_r + L_l) / 2

Words recur: another image's "dog" is no good negative for a dog. M leaves out the pairs whose lemma is among those that
the region is linked with, unless they are linked themselves (``same_lemma="ignore"``). They may also count as matches
(RegionCLIP's reading of equal concepts) or, as in FineCLIP and FG-CLIP, as negatives. Where each box has one lexeme and
no lemma recurs, all three are the symmetric InfoNCE of those two.

The paper's equations are not public to us: its abstract tells that textual segments are aligned with their regions, no
more. The sum over matches inside the logarithm is RegionCLIP's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import ProcessGroup, shared_mean
from losses.core.ragged import index_in_group, spread

SameLemma = Literal["ignore", "positive", "negative"]
_REGION_KNOWS_NONE, _LEXEME_HAS_NONE = 1, 2  # ids of unknown lemmas: they differ, so they never meet


class LexemeRegionLoss(nn.Module):
    """Linked regions and lexemes find each other among those of all images.

    Args:
        same_lemma: what pairs are that are not linked though the lexeme's lemma is among those of the region's own
            lexemes: left out (``ignore``), matches (``positive``) or ``negative``s.
        negatives: where the other images come from: ``all`` ranks, this ``rank``, or groups of so many images of it; 1
            contrasts within each image only.

    Raises:
        ValueError: where an argument is none of these.
    """

    def __init__(self, same_lemma: SameLemma = "ignore", negatives: Negatives = "all") -> None:
        super().__init__()
        if same_lemma not in ("ignore", "positive", "negative"):
            raise ValueError(f"same_lemma must be ignore, positive or negative, got {same_lemma!r}")
        check_negatives(negatives)
        self.same_lemma: SameLemma = same_lemma
        self.negatives: Negatives = negatives

    def forward(
        self,
        regions: Float[Tensor, "P D"],
        lexemes: Float[Tensor, "Q D"],
        links: Int[Tensor, "M 2"],
        scale: Scalar,
        lemma: Int[Tensor, " Q"],
        region_image: Int[Tensor, " P"],
        lexeme_image: Int[Tensor, " Q"],
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0, still attached to the graph,
        where nothing is linked.

        Args:
            regions, lexemes: unit vectors. Those without a link take no part; what they hold changes nothing.
            links: (row of regions, row of lexemes), both of one image; a repeated link counts once.
            scale: what multiplies the similarities.
            lemma: 64-bit hash of each lexeme's base form; 0 is unknown, and equal to none.
            region_image, lexeme_image: the image that each belongs to, counted from 0 on each rank.

        Raises:
            ValueError: where shapes do not agree, or a link joins two images.
        """
        _check(regions, lexemes, links, lemma, region_image, lexeme_image)
        b = _blocks(regions, lexemes, links, lemma, region_image, lexeme_image)
        rows, cols = ContrastSide(b.regions, b.linked.any(2)), ContrastSide(b.lexemes, b.linked.any(1))
        keep = None
        if self.same_lemma == "ignore":
            known = b.region_lemmas.where(b.region_lemmas != 0, _REGION_KNOWS_NONE)
            own = b.lemma.where(b.lemma != 0, _LEXEME_HAS_NONE)
            rows, cols = rows._replace(ids=known), cols._replace(ids=own[..., None])
            keep = b.linked | ~(known[:, :, None] == own[:, None, :, None]).any(-1)
        logits = log_partition(rows, cols, scale, keep, negatives=self.negatives)
        if self.same_lemma == "positive":
            matches = self._alike(b, scale)
        else:
            linked = logits.own.masked_fill(~b.linked, torch.finfo(logits.own.dtype).min)
            matches = linked.logsumexp(2), linked.logsumexp(1)
        means = [
            shared_mean(torch.where(side.valid, partition - match, 0).sum(), side.valid.sum().to(partition))
            for side, partition, match in zip((rows, cols), logits[1:], matches, strict=True)
        ]
        return 0.5 * (means[0] + means[1])

    def _alike(self, b: _Blocks, scale: Scalar) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B Q"]]:
        """log-sum-exp over the lexemes that share a lemma with a region's own, and the same for lexemes.

        It is the partition of a contrast whose parts are the lemmas. A region stands there once for each of its lemmas;
        rows and columns belong to no common block, so that all pairs pass through the engine's tiles.
        """
        images, width, _ = b.regions.shape
        image, region, lexeme = b.linked.nonzero().unbind(1)
        concept = self._concepts(b)
        stands = torch.stack([image * width + region, concept[image, lexeme]], 1).unique(dim=0)
        there = b.linked.any(1)
        rows, cols = b.regions.flatten(0, 1)[stands[:, 0]], b.lexemes[there]
        part = torch.cat([stands[:, 1], concept[there]])
        first = torch.arange(len(part), device=part.device) < len(rows)
        logits = log_partition(
            ContrastSide(torch.cat([rows, torch.zeros_like(cols)])[:, None], first[:, None]),
            ContrastSide(torch.cat([torch.zeros_like(rows), cols])[:, None], ~first[:, None]),
            scale,
            part=part,
            negatives="all" if self.negatives == "all" else "rank",
        )
        of_stands = logits.row_partition[first, 0]
        lowest = torch.finfo(of_stands.dtype).min
        to_lexeme = spread(of_stands, stands[:, 0], images * width, lowest).logsumexp(1).view(images, width)
        to_region = torch.zeros(there.shape, dtype=of_stands.dtype, device=there.device)
        return to_lexeme, to_region.index_put((there,), logits.col_partition[~first, 0])

    def _concepts(self, b: _Blocks) -> Int[Tensor, "B Q"]:
        """Lemmas as numbers from 0 on, the same on all ranks that meet; an unknown lemma has one of its own, and so has
        a lemma in each group of images.
        """
        ranks = ProcessGroup.everyone() if self.negatives == "all" else ProcessGroup()
        known = b.lemma[b.lemma != 0].unique()
        known = ranks.gather(known, ranks.counts(len(known), known.device)).unique()
        unknown = b.lemma == 0
        counts = ranks.counts(int(unknown.sum()), known.device)
        first = len(known) + sum(counts[: ranks.index])
        concept = torch.searchsorted(known, b.lemma)
        concept[unknown] = first + torch.arange(counts[ranks.index], device=known.device)
        if isinstance(self.negatives, int):
            group = torch.arange(len(concept), device=concept.device)[:, None] // self.negatives
            concept = concept + group * (len(known) + sum(counts))
        return concept


class _Blocks(NamedTuple):
    """Regions and lexemes by image; 0 and False where an image has fewer."""

    regions: Float[Tensor, "B R D"]
    lexemes: Float[Tensor, "B Q D"]
    linked: Bool[Tensor, "B R Q"]
    lemma: Int[Tensor, "B Q"]
    region_lemmas: Int[Tensor, "B R W"]  # of the lexemes that a region is linked with


def _blocks(
    regions: Tensor, lexemes: Tensor, links: Tensor, lemma: Tensor, region_image: Tensor, lexeme_image: Tensor
) -> _Blocks:
    images = 1 + max((int(image.max()) for image in (region_image, lexeme_image) if len(image)), default=0)
    by_region, by_lexeme = spread(regions, region_image, images), spread(lexemes, lexeme_image, images)
    lemmas = spread(lemma, lexeme_image, images)
    linked = torch.zeros(*by_region.shape[:2], by_lexeme.shape[1], dtype=torch.bool, device=regions.device)
    row, col = links.unbind(1)
    linked[region_image[row], index_in_group(region_image, images)[row], index_in_group(lexeme_image, images)[col]] = (
        True
    )
    image, region, lexeme = linked.nonzero().unbind(1)
    flat = spread(lemmas[image, lexeme], image * linked.shape[1] + region, images * linked.shape[1])
    return _Blocks(by_region, by_lexeme, linked, lemmas, flat.unflatten(0, linked.shape[:2]))


def _check(
    regions: Tensor, lexemes: Tensor, links: Tensor, lemma: Tensor, region_image: Tensor, lexeme_image: Tensor
) -> None:
    if regions.ndim != 2 or lexemes.ndim != 2 or regions.shape[1] != lexemes.shape[1]:
        raise ValueError(
            f"regions and lexemes must be [P, D] and [Q, D], got {list(regions.shape)} and {list(lexemes.shape)}"
        )
    for name, x, rows in (
        ("region_image", region_image, regions),
        ("lexeme_image", lexeme_image, lexemes),
        ("lemma", lemma, lexemes),
    ):
        if x.shape != rows.shape[:1]:
            raise ValueError(f"{name} must have {len(rows)} numbers, got {list(x.shape)}")
    if links.ndim != 2 or links.shape[1] != 2:
        raise ValueError(f"links must be [M, 2], got {list(links.shape)}")
    if not torch.equal(region_image[links[:, 0]], lexeme_image[links[:, 1]]):
        raise ValueError("links must join a region and a lexeme of one image")
