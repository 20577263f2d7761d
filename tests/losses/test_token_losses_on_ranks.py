"""MulCLIP's losses: W ranks give the loss and gradients of one process that has the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from losses import ClimLoss, SoftmaxWeights, SparseWeights, SubcaptionLoss, WordPatchLoss
from losses.core import pairs
from losses.subcaption import aggregate
from tests.helpers.ranks import run_on_ranks

MODES = {"sparse": SparseWeights(), "softmax": SoftmaxWeights(0.2), "word patch": WordPatchLoss(), "clim": ClimLoss()}
# Image 3 has no sentence; slots 3 and 4 are filled by one or two images, which stand on different ranks.
SENTENCES, WORDS = (4, 1, 2, 0, 3, 5, 2), (6, 2, 3, 1, 4, 6, 5)
SPLITS = {1: [7], 2: [2, 5], 3: [4, 1, 2], 4: [1, 3, 0, 3]}


class Model(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.log_scale = nn.Parameter(torch.tensor([1.5]))
        self.to(dtype)

    def forward(self, mode, batch):
        patches, texts, sentence_valid, word_valid, text_id = batch
        patches, texts = (normalize(f(x), dim=-1) for f, x in zip(self.towers, (patches, texts), strict=True))
        scale = self.log_scale.exp()
        if mode in ("word patch", "clim"):
            return MODES[mode](patches, texts[:, : word_valid.shape[1]], word_valid) + 0 * scale.sum()
        sentences = texts[:, : sentence_valid.shape[1]]
        regions = aggregate(patches, sentences, sentence_valid, MODES[mode])
        return SubcaptionLoss()(regions, sentences, sentence_valid, scale, text_id)


def batch_of(rank, sizes, dtype):
    """This rank's images of a batch of 7, its slots cut to as many as it needs."""
    g = torch.Generator().manual_seed(1)
    patches, texts = (torch.randn(7, n, 6, generator=g, dtype=torch.float64).to(dtype) for n in (5, 6))
    text_id = torch.randint(0, 6, (7, 6), generator=g)
    images = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    valid = []
    for counts in (SENTENCES, WORDS):
        count = torch.tensor(counts)[images]
        valid.append(torch.arange(max(1, *count.tolist(), 1)) < count[:, None])
    return patches[images], texts[images], *valid, text_id[images, : valid[0].shape[1]]


def losses_and_gradients(dtype, parallel=True):
    pairs.TILE["cpu"] = 3
    rank, sizes = (dist.get_rank(), SPLITS[dist.get_world_size()]) if parallel else (0, SPLITS[1])
    model = Model(dtype)
    run = DistributedDataParallel(model) if parallel else model
    results = {}
    for mode in MODES:
        model.zero_grad(set_to_none=True)
        loss = run(mode, batch_of(rank, sizes, dtype))
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        results[mode] = {"loss": loss.detach(), **grads}
    return results


@pytest.mark.parametrize(
    ("world_size", "dtype"), [(1, torch.float64), (2, torch.float64), (3, torch.float32), (4, torch.float64)]
)
def test_ranks_are_invisible(world_size, dtype):
    ranks = run_on_ranks(losses_and_gradients, world_size, dtype)
    for mode, values in losses_and_gradients(dtype, parallel=False).items():
        loss = torch.stack([rank[mode]["loss"] for rank in ranks]).mean()
        assert (loss - values["loss"]).abs() <= 1e-6 * values["loss"].abs(), mode
        for name, grad in values.items():
            if name != "loss":
                for rank in ranks:
                    assert (rank[mode][name] - grad).norm() <= 2e-6 * grad.norm(), (mode, name)
