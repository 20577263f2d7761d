"""Methods over ranks, besides their losses: gradient caching, means of validation, stopping alike."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from datamodules import GrainSampling, GranularityData
from datamodules.batching.image_transforms import normalise
from lightning_modules import BetaClip, ClipFinetune, HarmoClip
from lightning_modules.methods.data_check import MethodError
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.methods.validation_metrics import MeanLosses
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import TINY
from tests.lightning_modules.test_data_check import train, write

pytestmark = pytest.mark.filterwarnings("ignore")


class Step(torch.nn.Module):
    """The loss of a batch as a module's forward, which DDP can wrap."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return sum(self.method.losses(batch, self.method.features(batch)).values())


def gradients_on_ranks(batches, part):
    torch.manual_seed(1)
    method = BetaClip(encoder=TINY, memory=MemoryConfig(grad_cache_chunk=part)).double()
    DistributedDataParallel(Step(method))(batches[dist.get_rank()]).backward()
    return {name: parameter.grad for name, parameter in method.named_parameters()}


def test_parts_on_two_ranks(tmp_path):
    shards = [str(shard) for shard in write_shards(tmp_path, 24, 1)]
    data = GranularityData(
        shards, batch_size=6, num_workers=0, image_size=16, context_length=77, sampling=GrainSampling()
    )
    data.setup("fit")
    batches = [b._replace(images=normalise(b.images).double()) for b in list(data.train_dataloader())[:2]]
    whole, by_parts = (run_on_ranks(gradients_on_ranks, 2, batches, part)[0] for part in (None, 2))
    for name, gradient in whole.items():
        torch.testing.assert_close(by_parts[name], gradient, rtol=1e-8, atol=1e-12, msg=name)


def on_ranks(shards):
    rank = str(dist.get_rank())
    os.environ.update(LOCAL_RANK=rank, RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ.update(LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    said = []
    for method, batch_size in ((ClipFinetune, 2), (partial(HarmoClip, lexeme="mean"), 8)):
        try:
            said.append(str(train(shards, method, ranks=2, batch_size=batch_size, epochs=1)))
        except MethodError as error:
            said.append(str(error))
    return said


def test_all_ranks_stop_alike(tmp_path):
    first, second = run_on_ranks(on_ranks, 2, write(tmp_path, regions=()))
    assert first == second
    assert first[0] == "12"  # one image a rank is contrasted with the other rank's
    assert "got none of the boxes with a phrase that it learns from in its first 24 images" in first[1]


def means_on_ranks(batches):
    means = MeanLosses()
    for term, images in batches[dist.get_rank()]:
        means.update({"global": torch.tensor(term), "local": torch.tensor(2 * term)}, images)
    first = {name: value.item() for name, value in means.compute().items()}
    means.reset()
    return first, means.compute()


def test_means_of_validation_weigh_a_batch_by_its_images_on_all_ranks():
    """Of two batches, 4 + 4 images and 2 + 1: (8 x mean(2, 4) + 3 x mean(1, 3)) / 11."""
    for found, after in run_on_ranks(means_on_ranks, 2, [[(2.0, 4), (1.0, 2)], [(4.0, 4), (3.0, 1)]]):
        assert found == pytest.approx({"global": 30 / 11, "local": 60 / 11})
        assert after == {}
