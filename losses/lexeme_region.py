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

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from losses.core.contrastive import ContrastSide, Scalar, log_partition
from losses.core.host_copies import derived, on_device, on_host
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
        rows = ContrastSide(b.regions, derived(lambda linked: linked.any(2), b.linked))
        cols = ContrastSide(b.lexemes, derived(lambda linked: linked.any(1), b.linked))
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
        (images, width, _), device = b.regions.shape, b.regions.device
        linked = on_host(b.linked)
        image, region, lexeme = np.nonzero(linked)
        concept = self._concepts(b)
        region_concepts = np.unique(np.stack([image * width + region, concept[image, lexeme]], 1), axis=0)
        named = np.flatnonzero(linked.any(1))
        region_rows, lexeme_rows = on_device(region_concepts[:, 0], device), on_device(named, device)
        rows, cols = b.regions.flatten(0, 1)[region_rows], b.lexemes.flatten(0, 1)[lexeme_rows]
        part = np.concatenate([region_concepts[:, 1], concept.flatten()[named]])
        is_row = (np.arange(len(part)) < len(rows))[:, None]
        logits = log_partition(
            ContrastSide(torch.cat([rows, torch.zeros_like(cols)])[:, None], on_device(is_row, device)),
            ContrastSide(torch.cat([torch.zeros_like(rows), cols])[:, None], on_device(~is_row, device)),
            scale,
            part=part,
            negatives="all" if self.negatives == "all" else "rank",
        )
        row_partition = logits.row_partition[: len(rows), 0]
        lowest = torch.finfo(row_partition.dtype).min
        to_lexeme = _pad_groups(row_partition, region_concepts[:, 0], images * width, lowest).logsumexp(1)
        to_region = row_partition.new_zeros(linked.shape[0] * linked.shape[2])
        to_region = to_region.index_copy(0, lexeme_rows, logits.col_partition[len(rows) :, 0])
        return to_lexeme.view(images, width), to_region.view(linked.shape[0], linked.shape[2])

    def _concepts(self, b: _Blocks) -> Int[np.ndarray, "B Q"]:
        """Lemmas as numbers from 0 on, equal on all ranks that are contrasted. Each unknown lemma has a number of its
        own; groups of images have different numbers.
        """
        ranks, device = ProcessGroup.world() if self.negatives == "all" else ProcessGroup(), b.lemma.device
        lemma = on_host(b.lemma)
        known = np.unique(lemma[lemma != 0])
        if ranks.size > 1:
            gathered = ranks.gather(on_device(known, device), ranks.counts(len(known), device))
            known = np.unique(on_host(gathered))
        unknown = lemma == 0
        counts = ranks.counts(int(unknown.sum()), device)
        first = len(known) + sum(counts[: ranks.index])
        concept = np.searchsorted(known, lemma)
        concept[unknown] = first + np.arange(counts[ranks.index])
        if isinstance(self.negatives, int):
            group = np.arange(len(concept))[:, None] // self.negatives
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
    device = regions.device
    of_region, of_lexeme = on_host(region_image), on_host(lexeme_image)
    images = 1 + max((int(image.max()) for image in (of_region, of_lexeme) if len(image)), default=0)
    region, lexeme = _index_in_group(of_region, images), _index_in_group(of_lexeme, images)
    widths = [1 + int(position.max()) if len(position) else 1 for position in (region, lexeme)]
    linked = np.zeros((images, *widths), dtype=bool)
    row, col = on_host(links).T
    linked[of_region[row], region[row], lexeme[col]] = True
    lemmas = np.zeros((images, widths[1]), dtype=np.int64)
    lemmas[of_lexeme, lexeme] = on_host(lemma)
    image, at_region, at_lexeme = np.nonzero(linked)
    owner = image * widths[0] + at_region
    place = _index_in_group(owner, images * widths[0])
    flat = np.zeros((images * widths[0], 1 + int(place.max()) if len(place) else 1), dtype=np.int64)
    flat[owner, place] = lemmas[image, at_lexeme]
    return _Blocks(
        _pad_groups(regions, of_region, images),
        _pad_groups(lexemes, of_lexeme, images),
        *(on_device(part, device) for part in (linked, lemmas, flat.reshape(images, widths[0], -1))),
    )


def _index_in_group(group: Int[np.ndarray, " n"], groups: int) -> Int[np.ndarray, " n"]:
    """The position of each row among the rows of its group, from 0, in order."""
    order = group.argsort(kind="stable")
    sizes = np.bincount(group, minlength=groups)
    first = sizes.cumsum() - sizes
    position = np.empty_like(group)
    position[order] = np.arange(len(group)) - first[group[order]]
    return position


def _pad_groups(
    rows: Shaped[Tensor, " n *D"], group: Int[np.ndarray, " n"], groups: int, empty: float = 0.0
) -> Shaped[Tensor, " groups W *D"]:
    """One line per group with its rows in order, padded with ``empty`` to the longest group; W is at least 1."""
    position = _index_in_group(group, groups)
    width = 1 + int(position.max()) if len(position) else 1
    places = on_device(group * width + position, rows.device)
    lines = rows.new_full((groups * width, *rows.shape[1:]), empty).index_copy(0, places, rows)
    return lines.unflatten(0, (groups, width))


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
    row, col = on_host(links).T
    if not np.array_equal(on_host(region_image)[row], on_host(lexeme_image)[col]):
        raise ValueError("links must join a region and a lexeme of one image")
