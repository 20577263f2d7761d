"""Compiled blocks: the same training, a few graphs whatever the texts' lengths, rows of fixed lengths."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from lightning import Callback
from torch._dynamo.testing import CompileCounter

from lightning_modules.callbacks import CompileBlocks
from lightning_modules.methods.gradient_cache import MemoryConfig
from lightning_modules.networks.sequence_packing import row_length
from tests.helpers.tiny_run import fit
from tests.lightning_modules.test_fit import Losses


class Compiled(Callback):
    """The number of graphs after each epoch."""

    def __init__(self, counter):
        self.counter, self.counts = counter, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.counts.append(self.counter.frame_count)


@pytest.mark.slow
def test_training_is_the_same_and_nothing_is_compiled_after_the_first_epochs(tmp_path):
    plain, compiled, counter = Losses(), Losses(), CompileCounter()
    counts = Compiled(counter)
    fit(tmp_path / "plain", plain, epochs=4)
    torch._dynamo.reset()
    fit(tmp_path / "compiled", compiled, CompileBlocks(backend=counter), counts, epochs=4)
    assert compiled.values == pytest.approx(plain.values, rel=1e-5)
    assert counts.counts[0] >= 3  # a plain block and the last one of the image tower, a text block
    assert counts.counts[1:] == [counts.counts[1]] * 3


@pytest.mark.slow
def test_compiled_blocks_can_be_recomputed(tmp_path):
    torch._dynamo.reset()
    losses, plain, memory = Losses(), Losses(), MemoryConfig(activation_checkpointing=True)
    fit(tmp_path / "plain", plain, epochs=1)
    fit(tmp_path / "compiled", losses, CompileBlocks(backend="eager"), epochs=1, memory=memory)
    assert losses.values == pytest.approx(plain.values, rel=1e-5)


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [([5, 6], 64), ([70, 3], 96), ([96], 96), ([97], 128), ([200], 248), ([248], 248)],
)
def test_rows_have_one_of_the_allowed_lengths(lengths, wanted):
    assert row_length(lengths, 248, (64, 96, 128, 160, 192)) == wanted


def test_a_short_context_is_never_exceeded():
    assert row_length([10] * 20, 32, (64, 96)) == 32


@pytest.mark.parametrize("lengths", [(), (96, 64), (64, 64), (0, 8)])
def test_row_lengths_are_checked(lengths):
    with pytest.raises(ValueError, match="row_lengths must be positive and ascending"):
        CompileBlocks(row_lengths=lengths)
