"""Regions and lexemes on W ranks, one of them without a region: what one process with the whole batch computes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from losses import GlobalRegionLoss, LexemeRegionLoss
from losses.core import pairs
from tests.helpers.ranks import run_on_ranks
from tests.losses.region_oracle import region_case

MODES = {name: LexemeRegionLoss(name) for name in ("ignore", "positive", "negative")}
SPLITS = {1: [6], 2: [4, 2], 3: [2, 1, 3]}  # images; of the third rank of three, image 2 has no region


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])
        self.log_scale = nn.Parameter(torch.tensor([1.5]))
        self.double()

    def forward(self, mode, case):
        regions, lexemes = (
            normalize(tower(x.nan_to_num(1.0)), dim=-1)
            for tower, x in zip(self.towers, (case.regions, case.lexemes), strict=True)
        )
        if mode == "global":
            return GlobalRegionLoss()(regions, regions.flip(1)) + 0 * lexemes.sum() + 0 * self.log_scale.sum()
        return MODES[mode](regions, lexemes, case.links, self.log_scale.exp(), *case[4:])


def part_of(case, first, last):
    """The images [first, last) of a batch, counted from 0 anew."""
    rows, cols = ((image >= first) & (image < last) for image in (case.region_image, case.lexeme_image))
    row, col = rows.cumsum(0) - 1, cols.cumsum(0) - 1
    links = case.links[rows[case.links[:, 0]]]
    return case._replace(
        regions=case.regions[rows],
        lexemes=case.lexemes[cols],
        links=torch.stack([row[links[:, 0]], col[links[:, 1]]], 1),
        lemma=case.lemma[cols],
        region_image=case.region_image[rows] - first,
        lexeme_image=case.lexeme_image[cols] - first,
    )


def losses_and_gradients(parallel=True):
    pairs.TILE["cpu"] = 3
    rank, sizes = (dist.get_rank(), SPLITS[dist.get_world_size()]) if parallel else (0, SPLITS[1])
    case = part_of(region_case(5), sum(sizes[:rank]), sum(sizes[: rank + 1]))
    model = Model()
    run = DistributedDataParallel(model) if parallel else model
    results = {}
    for mode in (*MODES, "global"):
        model.zero_grad(set_to_none=True)
        loss = run(mode, case)
        loss.backward()
        results[mode] = {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_are_invisible(world_size):
    ranks = run_on_ranks(losses_and_gradients, world_size)
    for mode, values in losses_and_gradients(parallel=False).items():
        loss = torch.stack([rank[mode]["loss"] for rank in ranks]).mean()
        assert values["loss"] > 0
        torch.testing.assert_close(loss, values["loss"], rtol=1e-9, atol=1e-12)
        for name, grad in values.items():
            if name != "loss":
                for rank in ranks:
                    assert (rank[mode][name] - grad).norm() <= 1e-9 * grad.norm() + 1e-15, (mode, name)
