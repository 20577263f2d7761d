"""W ranks give the loss and gradients of one process that has the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from losses import BetaCalLoss, ClipLoss, MultiPositiveClipLoss, SigmoidLoss
from losses.core import pairs
from tests.helpers.ranks import run_on_ranks

MODES = {
    "ce": {},
    "ce, beta 0": {"beta": 0.0},
    "ce, ids, weights": {"beta": 1.0},
    "ce, blocks": {"negatives": 2},
    "bce": {"objective": "bce"},
    "bce, ids, weights": {"objective": "bce", "normalize_by": "row", "bias": -2.0},
    "bce, blocks": {"objective": "bce", "negatives": 2},
}
# Images 2 and 3 have no text: no rank but the only one has all kinds of images.
SPLITS = {1: [8], 2: [2, 6], 3: [4, 2, 2], 4: [2, 2, 4, 0]}


class Model(nn.Module):
    """Two linear towers, a scale, and all losses of ``MODES`` and CLIP's two."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.log_scale = nn.Parameter(torch.tensor([1.5]))
        self.bias = nn.Parameter(torch.tensor([-2.0]))
        self.losses = nn.ModuleDict({name: BetaCalLoss(**options) for name, options in MODES.items()})
        self.to(dtype)

    def forward(self, mode, batch):
        pooled, text, valid, text_id, weight = batch
        pooled, text = (normalize(f(x), dim=-1) for f, x in zip(self.towers, (pooled, text), strict=True))
        scale = self.log_scale.exp()
        if mode == "clip":
            return ClipLoss()(pooled[:, 0], text[:, 0], scale, valid[:, 0], text_id[:, 0])
        if mode == "multi-positive":
            return MultiPositiveClipLoss()(pooled[:, 0], text, valid, scale, text_id)
        if mode == "sigmoid":
            return SigmoidLoss()(pooled[:, 0], text, scale, self.bias, valid, text_id)
        extra = (text_id, weight) if "ids" in mode else ()
        return self.losses[mode](pooled, text, valid, scale, *extra)


def batch_of(rank, sizes, dtype):
    """This rank's images of a batch of 8, its slots cut to as many as it needs."""
    g = torch.Generator().manual_seed(1)
    pooled, text = (torch.randn(8, 5, 6, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    count = torch.tensor([5, 1, 0, 0, 3, 2, 4, 1])
    valid = torch.arange(5) < count[:, None]
    text_id = torch.randint(0, 9, (8, 5), generator=g)
    weight = torch.rand(8, 5, generator=g, dtype=torch.float64).to(dtype)
    first = sum(sizes[:rank])
    images = slice(first, first + sizes[rank])
    slots = max(count[images].tolist(), default=0) or 1
    return [x[images, :slots] for x in (pooled, text, valid, text_id, weight)]


def losses_and_gradients(dtype):
    pairs.TILE["cpu"] = 3
    rank, sizes = dist.get_rank(), SPLITS[dist.get_world_size()]
    model = DistributedDataParallel(Model(dtype), find_unused_parameters=True)  # each mode uses some parameters
    results = {}
    for mode in (*MODES, "clip", "multi-positive", "sigmoid"):
        model.zero_grad(set_to_none=True)
        loss = model(mode, batch_of(rank, sizes, dtype))
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}
        results[mode] = {"loss": loss.detach(), **grads}
    return results


def alone(dtype):
    model, results = Model(dtype), {}
    for mode in (*MODES, "clip", "multi-positive", "sigmoid"):
        model.zero_grad(set_to_none=True)
        loss = model(mode, batch_of(0, SPLITS[1], dtype))
        loss.backward()
        results[mode] = {"loss": loss.detach()}
        results[mode].update((name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None)
    return results


@pytest.mark.parametrize(
    ("world_size", "dtype"), [(1, torch.float64), (2, torch.float64), (3, torch.float32), (4, torch.float64)]
)
def test_ranks_are_invisible(world_size, dtype):
    ranks = run_on_ranks(losses_and_gradients, world_size, dtype)
    for mode, values in alone(dtype).items():
        loss = torch.stack([rank[mode]["loss"] for rank in ranks]).mean()
        assert (loss - values["loss"]).abs() <= 1e-6 * values["loss"].abs(), mode
        assert len(values) >= 6, mode
        for name, grad in values.items():
            if name != "loss":
                for rank in ranks:
                    assert (rank[mode][name] - grad).norm() <= 1e-6 * grad.norm(), (mode, name)
