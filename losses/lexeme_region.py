"""Lexeme-Region Contrast of HarmoCLIP-style training (after arXiv 2511.22594; reconstructed, see below).

Regions r are contrasted with lexemes l, the words of a caption that name objects, over the images of the whole batch. Y
links them, many to many: a box may be named twice ("a man ... he"), a word may name several boxes ("two dogs").

    S = scale r.l,   L_r = -mean_p log [ sum_q Y_pq e^{S_pq} / sum_q M_pq e^{S_pq} ],   L_l alike over columns,
    L = (L_r + L_l) / 2

Words recur, and another image's "dog" is a false negative for a dog. By default (``same_lemma="ignore"``) M leaves out
the pairs that are not linked although the lexeme's lemma is among those of the region's linked lexemes. They may also
count as matches (as RegionCLIP treats equal concepts) or, as in FineCLIP and FG-CLIP, as negatives. Where each box has
one lexeme and no lemma recurs, all three are symmetric InfoNCE.

The paper's equations are not public to us: its abstract only states that text segments are aligned with their regions.
The sum over matches inside the logarithm is RegionCLIP's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.pairs import Negatives, check_negatives
from losses.core.process_group import ProcessGroup, shared_mean

SameLemma = Literal["ignore", "positive", "negative"]
_UNKNOWN_OF_REGION, _UNKNOWN_OF_LEXEME = 1, 2  # ids of unknown lemmas; they differ, so that none are equal


class LexemeRegionLoss(nn.Module):
    """Contrast of regions and lexemes over all images, with links as positives.

    Args:
        same_lemma: how pairs count that are not linked although the lexeme's lemma is among those of the region's
        linked
            lexemes: not at all (``ignore``), as matches (``positive``) or as negatives (``negative``).
        negatives: where negatives come from: "all" ranks, this "rank", or groups of so many consecutive images of it; 1
            contrasts within each image only.

    Raises:
        ValueError: where an argument has another value.
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
            regions, lexemes: unit vectors. Those without a link are left out, and their contents have no effect.
            links: (row of regions, row of lexemes), both of one image; a repeated link counts once.
            scale: factor of the similarities.
            lemma: 64-bit hash of each lexeme's base form; 0 is unknown, and equal to no other.
            region_image, lexeme_image: the image of each, counted from 0 on each rank.

        Raises:
            ValueError: where shapes do not agree, or a link joins two images.
        """
        _check(regions, lexemes, links, lemma, region_image, lexeme_image)
        b = _blocks(regions, lexemes, links, lemma, region_image, lexeme_image)
        rows, cols = ContrastSide(b.regions, b.linked.any(2)), ContrastSide(b.lexemes, b.linked.any(1))
        keep = None
        if self.same_lemma == "ignore":
            region_ids = b.region_lemmas.where(b.region_lemmas != 0, _UNKNOWN_OF_REGION)
            lexeme_ids = b.lemma.where(b.lemma != 0, _UNKNOWN_OF_LEXEME)
            rows, cols = rows._replace(ids=region_ids), cols._replace(ids=lexeme_ids[..., None])
            keep = b.linked | ~(region_ids[:, :, None] == lexeme_ids[:, None, :, None]).any(-1)
        logits = log_partition(rows, cols, scale, keep, negatives=self.negatives)
        if self.same_lemma == "positive":
            matches = self._lemma_partition(b, scale)
        else:
            linked = logits.within.masked_fill(~b.linked, torch.finfo(logits.within.dtype).min)
            matches = linked.logsumexp(2), linked.logsumexp(1)
        means = [
            shared_mean(torch.where(side.valid, partition - match, 0).sum(), side.valid.sum().to(partition))
            for side, partition, match in zip((rows, cols), logits[1:], matches, strict=True)
        ]
        return 0.5 * (means[0] + means[1])

    def _lemma_partition(self, b: _Blocks, scale: Scalar) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B Q"]]:
        """log-sum-exp over the lexemes that share a lemma with a region's linked lexemes, and the same for lexemes.

        It is the partition of a contrast whose parts are the lemmas. Each region has a row for each of its lemmas; rows
        and columns have no block in common, so that all pairs pass through the engine's tiles.
        """
        images, width, _ = b.regions.shape
        image, region, lexeme = b.linked.nonzero().unbind(1)
        concept = self._concepts(b)
        region_concepts = torch.stack([image * width + region, concept[image, lexeme]], 1).unique(dim=0)
        linked = b.linked.any(1)
        rows, cols = b.regions.flatten(0, 1)[region_concepts[:, 0]], b.lexemes[linked]
        part = torch.cat([region_concepts[:, 1], concept[linked]])
        is_row = torch.arange(len(part), device=part.device) < len(rows)
        logits = log_partition(
            ContrastSide(torch.cat([rows, torch.zeros_like(cols)])[:, None], is_row[:, None]),
            ContrastSide(torch.cat([torch.zeros_like(rows), cols])[:, None], ~is_row[:, None]),
            scale,
            part=part,
            negatives="all" if self.negatives == "all" else "rank",
        )
        row_partition = logits.row_partition[is_row, 0]
        lowest = torch.finfo(row_partition.dtype).min
        to_lexeme = _pad_groups(row_partition, region_concepts[:, 0], images * width, lowest).logsumexp(1)
        to_region = torch.zeros(linked.shape, dtype=row_partition.dtype, device=linked.device)
        return to_lexeme.view(images, width), to_region.index_put((linked,), logits.col_partition[~is_row, 0])

    def _concepts(self, b: _Blocks) -> Int[Tensor, "B Q"]:
        """Lemmas as numbers from 0 on, equal on all ranks that are contrasted. Each unknown lemma has a number of its
        own; groups of images have different numbers.
        """
        ranks = ProcessGroup.world() if self.negatives == "all" else ProcessGroup()
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
    region_lemmas: Int[Tensor, "B R W"]  # of the region's linked lexemes


def _blocks(
    regions: Tensor, lexemes: Tensor, links: Tensor, lemma: Tensor, region_image: Tensor, lexeme_image: Tensor
) -> _Blocks:
    images = 1 + max((int(image.max()) for image in (region_image, lexeme_image) if len(image)), default=0)
    by_region, by_lexeme = _pad_groups(regions, region_image, images), _pad_groups(lexemes, lexeme_image, images)
    lemmas = _pad_groups(lemma, lexeme_image, images)
    linked = torch.zeros(*by_region.shape[:2], by_lexeme.shape[1], dtype=torch.bool, device=regions.device)
    row, col = links.unbind(1)
    region, lexeme = _index_in_group(region_image, images)[row], _index_in_group(lexeme_image, images)[col]
    linked[region_image[row], region, lexeme] = True
    image, region, lexeme = linked.nonzero().unbind(1)
    flat = _pad_groups(lemmas[image, lexeme], image * linked.shape[1] + region, images * linked.shape[1])
    return _Blocks(by_region, by_lexeme, linked, lemmas, flat.unflatten(0, linked.shape[:2]))


def _index_in_group(group: Int[Tensor, " n"], groups: int) -> Int[Tensor, " n"]:
    """The position of each row among the rows of its group, from 0, in order."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=groups)
    first = sizes.cumsum(0) - sizes
    ranked = torch.arange(len(group), device=group.device) - first[group[order]]
    return torch.empty_like(ranked).index_copy_(0, order, ranked)


def _pad_groups(
    rows: Shaped[Tensor, " n *D"], group: Int[Tensor, " n"], groups: int, empty: float = 0.0
) -> Shaped[Tensor, " groups W *D"]:
    """One line per group with its rows in order, padded with ``empty`` to the longest group; W is at least 1."""
    position = _index_in_group(group, groups)
    width = 1 + int(position.max()) if len(position) else 1
    lines = rows.new_full((groups, width, *rows.shape[1:]), empty)
    return lines.index_put((group, position), rows)


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
