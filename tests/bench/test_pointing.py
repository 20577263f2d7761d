"""The measure itself: a model that knows where things are points at all of them, and phrases are those with one box."""

from __future__ import annotations

import pytest
import torch

from datamodules.shards.discovery import find_shards
from eval.data.shard_samples import read_shard_samples
from tests.bench import pointing as module
from tests.helpers.tiny import make_sample, write_tar


class Knowing:
    """Its map is largest in the middle of the one box that the tiny samples have."""

    pooling = None
    image_size, context_length, device, digest = 16, 77, torch.device("cpu"), ""

    def __init__(self, right):
        self.right = right

    def token_count(self, text):
        return 3

    def encode_image(self, squares):
        dense = torch.full((len(squares), 2, 4, 4), 0.1)
        dense[:, 0 if self.right else 1, 2, 1] = 1.0  # row 2, column 1 of 4

        class Snapshot:
            image = torch.ones(len(squares), 2) / 2**0.5

        Snapshot.dense = dense
        return Snapshot

    def encode_text(self, texts):
        return torch.tensor([[1.0, 0.0]]).expand(len(texts), -1)


@pytest.mark.parametrize("right", [True, False])
def test_pointing(tmp_path, right):
    shard = write_tar(tmp_path / "a.tar", [make_sample(number) for number in range(5)])
    samples = list(read_shard_samples(find_shards([str(shard)])))
    found = module.pointing(Knowing(right), samples)
    assert found.phrases == 5
    assert found.accuracy == float(right)
    assert found.chance == pytest.approx(0.5 * 0.7)
