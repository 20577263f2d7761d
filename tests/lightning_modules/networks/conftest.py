"""A small encoder, and texts as the loader makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from datamodules.batch import RaggedTexts
from lightning_modules.networks import DualEncoder, EncoderConfig

SMALL = EncoderConfig(
    image_size=32,
    patch_size=8,
    image_width=48,
    image_layers=3,
    image_heads=4,
    text_width=40,
    text_layers=2,
    text_heads=4,
    embed_dim=32,
    vocab_size=97,
    context_length=60,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more time on waking threads than they win."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> EncoderConfig:
    """Sizes at which a forward pass takes milliseconds."""
    return SMALL


@pytest.fixture
def encoder(small) -> DualEncoder:
    """A small encoder with random weights, the same in every run; biases and norms are not at their defaults."""
    torch.manual_seed(0)
    encoder = DualEncoder(small)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def ragged() -> Callable[[Sequence[Tensor]], RaggedTexts]:
    """Token sequences as the ragged set of a batch."""

    def make(sequences):
        offsets = torch.tensor([0, *(len(sequence) for sequence in sequences)]).cumsum(0)
        return RaggedTexts(torch.cat(list(sequences)), offsets, torch.arange(len(sequences)))

    return make


@pytest.fixture
def random_texts() -> Callable[..., list[Tensor]]:
    """Random token sequences of given lengths, from SOT to EOT, which are the two last ids of the vocabulary."""

    def make(lengths, vocabulary=97, seed=0):
        generator = torch.Generator().manual_seed(seed)
        ends = torch.tensor([vocabulary - 2]), torch.tensor([vocabulary - 1])
        return [
            torch.cat([ends[0], torch.randint(1, vocabulary - 2, (length - 2,), generator=generator), ends[1]])
            for length in lengths
        ]

    return make
