"""What the host knows of tensors on a device: it is theirs, and it goes with them only while it is true."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from datamodules.batching.host_copies import keep_host_copies
from losses.core.host_copies import derived, everywhere, on_device, on_host, remember
from tests.helpers.simulated_device import DEVICE, simulated_device, waits


class Pair(NamedTuple):
    numbers: torch.Tensor
    word: str


@pytest.fixture
def device():
    with simulated_device():
        yield DEVICE


def moved(values: torch.Tensor) -> torch.Tensor:
    return values.pin_memory().to(DEVICE, non_blocking=True)


def test_on_the_cpu_a_tensor_is_known():
    values = torch.tensor([[1, 2], [3, 4]])
    assert on_host(values).tolist() == [[1, 2], [3, 4]]
    assert on_host(np.array([5])).tolist() == [5]
    assert on_device(np.array([True, False]), torch.device("cpu")).tolist() == [True, False]
    assert derived(lambda x: x + 1, values).tolist() == [[2, 3], [4, 5]]


def test_a_batch_keeps_its_copies(device):
    batch = {"a": Pair(torch.arange(3), "word"), "b": [torch.tensor([True, False])]}
    there = {"a": Pair(moved(batch["a"].numbers), "word"), "b": [moved(batch["b"][0])]}
    keep_host_copies(there, batch)
    with waits() as places:
        assert on_host(there["a"].numbers).tolist() == [0, 1, 2]
        assert on_host(there["b"][0]).tolist() == [True, False]
        assert on_host(derived(lambda x, y: x[:2][y], there["a"].numbers, there["b"][0])).tolist() == [0]
        assert on_host(everywhere(2, 1, device=device)).tolist() == [[True], [True]]
        assert on_host(on_device(np.arange(4), device)).tolist() == [0, 1, 2, 3]
    assert set(places) <= {place for place in places if "by a mask" in place}  # the rule above, on the device itself


def test_what_is_not_known_is_read_once(device):
    there = moved(torch.arange(3))
    with waits() as places:
        assert on_host(there).tolist() == on_host(there).tolist() == [0, 1, 2]
    assert places.total() == 1


def test_a_copy_is_not_believed_after_a_change(device):
    there = moved(torch.arange(3))
    remember(there, torch.arange(3))
    there += 1
    assert on_host(there).tolist() == [1, 2, 3]
    with waits() as places:
        assert on_host(derived(lambda x: x * 2, moved(torch.arange(3)))).tolist() == [0, 2, 4]  # of one not known
    assert places.total() == 1
