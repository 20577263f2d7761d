"""Lexeme-Region Contrast pair by pair, from its equations, in float64; batches of regions and lexemes to try it on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class RegionCase(NamedTuple):
    """Inputs of the loss. Images have few or no regions; some regions and lexemes have no link, and hold NaN."""

    regions: Tensor
    lexemes: Tensor
    links: Tensor
    scale: Tensor
    lemma: Tensor
    region_image: Tensor
    lexeme_image: Tensor

    def leaves(self) -> RegionCase:
        return self._replace(**{n: getattr(self, n).detach().clone().requires_grad_() for n in LEAVES})

    def grads(self) -> list[Tensor]:
        return [getattr(self, n).grad for n in LEAVES]


LEAVES = ("regions", "lexemes", "scale")


def region_case(seed: int = 0, images: int = 6, lemmas: int = 4, width: int = 5) -> RegionCase:
    """Links many to many, lemmas that recur within and between images, some unknown (0); image 2 has no region."""
    g = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    region_image, lexeme_image, links = [], [], []
    for image in range(images):
        rows = range(len(region_image), len(region_image) + (0 if image == 2 else number(1, 5)))
        cols = range(len(lexeme_image), len(lexeme_image) + number(1, 5))
        region_image += [image] * len(rows)
        lexeme_image += [image] * len(cols)
        links += [(p, q) for p in rows for q in cols if number(0, 10) < 4]
    links += links[:2]  # a repeated link counts once
    regions, lexemes = (
        normalize(torch.randn(len(at), width, generator=g, dtype=torch.float64), dim=-1)
        for at in (region_image, lexeme_image)
    )
    index = torch.tensor(links)
    for vectors, linked in ((regions, index[:, 0]), (lexemes, index[:, 1])):
        alone = torch.ones(len(vectors), dtype=torch.bool)
        alone[linked] = False
        vectors[alone] = torch.nan
    lemma = torch.randint(0, lemmas, (len(lexemes),), generator=g) * 7919
    scale = torch.tensor(6.0, dtype=torch.float64)
    return RegionCase(regions, lexemes, index, scale, lemma, torch.tensor(region_image), torch.tensor(lexeme_image))


def lexeme_region(case: RegionCase, same_lemma: str = "ignore", group: int | None = None) -> Tensor:
    """The equations, pair by pair; images meet within groups of so many, all where None."""
    linked = {(int(p), int(q)) for p, q in case.links}
    rows, cols = sorted({p for p, _ in linked}), sorted({q for _, q in linked})
    lemmas = {p: {int(case.lemma[q]) for p2, q in linked if p2 == p} - {0} for p in rows}

    def pairs(row: int | None = None, col: int | None = None, kind: str = "all") -> Tensor:
        logits = []
        for p in rows if row is None else [row]:
            for q in cols if col is None else [col]:
                images = int(case.region_image[p]), int(case.lexeme_image[q])
                if group is not None and images[0] // group != images[1] // group:
                    continue
                match, alike = (p, q) in linked, int(case.lemma[q]) in lemmas[p]
                if kind == "matches" and not (match or (alike and same_lemma == "positive")):
                    continue
                if kind == "all" and alike and not match and same_lemma == "ignore":
                    continue
                logits.append(case.scale * (case.regions[p] * case.lexemes[q]).sum())
        return torch.stack(logits).logsumexp(0)

    to_lexeme = [pairs(row=p) - pairs(row=p, kind="matches") for p in rows]
    to_region = [pairs(col=q) - pairs(col=q, kind="matches") for q in cols]
    return (torch.stack(to_lexeme).mean() + torch.stack(to_region).mean()) / 2
