"""A run saved on some ranks goes on with others: the same global batches, the same losses, the same weights, without a
number to work out by hand.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback

from datamodules import GranularityData
from datamodules.reading import global_batch
from datamodules.shards.discovery import ShardError
from tests.helpers import tiny_run
from tests.helpers.diary import diary
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import fit
from tests.helpers.warm_ranks import WarmRanks
from tests.lightning_modules.killable_run import train

pytestmark = pytest.mark.filterwarnings("ignore")


class StopsAfter(Callback):
    """A scheduler that warns in the step after this one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def read(folder: Path, ranks: int) -> list[dict]:
    """The batches since the last time."""
    batches = diary(folder, ranks)
    for file in folder.glob("*.jsonl"):
        file.unlink()
    return batches


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.long), 2])
def test_one_rank_two_four_and_one(tmp_path, accumulate):
    shards = [str(path) for path in write_shards(tmp_path / "shards", 24, 3)]
    whole, parts, seen = tmp_path / "whole", tmp_path / "parts", []
    with WarmRanks(__name__) as warm:
        assert warm.wait(warm.start(whole, train, 1, str(whole), shards, 0.0, 12, 0, 1000, accumulate), 120) == [0]
        for ranks, stop in [(1, 2), (2, 5), (4, 8), (1, 0)]:
            arguments = (str(parts), shards, 0.0, 12, 0, 1000, accumulate, [StopsAfter(stop)])
            ended = warm.wait(warm.start(parts, train, ranks, *arguments), 120)
            assert ended == [143 if stop else 0] * ranks
            seen += read(parts, ranks)
    wanted = read(whole, 1)
    assert [(one["step"], one["keys"]) for one in seen] == [(one["step"], one["keys"]) for one in wanted]
    assert [one["loss"] for one in seen] == pytest.approx([one["loss"] for one in wanted], rel=1e-5)
    ended, alone = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (parts, whole))
    for name, weight in alone["state_dict"].items():
        torch.testing.assert_close(ended["state_dict"][name], weight, rtol=0, atol=1e-5)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    class TwoRanks:
        world_size, global_rank, accumulate_grad_batches, is_global_zero = 2, 0, 1, True

    shards = [str(path) for path in write_shards(tmp_path, 24, 2)]
    found = GranularityData(shards, global_batch_size=9)
    found.trainer = TwoRanks()
    with pytest.raises(ShardError, match=r"data\.global_batch_size must be a multiple of the 2 ranks, got 9"):
        found.setup("fit")
    with pytest.raises(ValueError, match=r"data\.global_batch_size must be at least 1, got 0"):
        GranularityData(shards, global_batch_size=0)


def test_another_batch_than_the_checkpoints_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(global_batch.logger, "warning", lambda *words: said.append(words[0] % words[1:]))
    fit(tmp_path, epochs=1)
    assert not said
    monkeypatch.setattr(tiny_run, "data", partial(tiny_run.data, global_batch_size=4))
    fit(tmp_path, epochs=2)
    assert len(said) == 1
    assert "in batches of 8 images over all ranks, this run has 4: the losses compare others" in said[0]
    assert said[0].endswith("--data.global_batch_size 8 goes on as before")


def test_what_is_compared_while_gradients_accumulate_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(global_batch.logger, "info", lambda *words: said.append(words[0] % words[1:]))
    shards = [str(path) for path in write_shards(tmp_path / "shards", 24, 3)]
    (tmp_path / "run").mkdir()
    train(str(tmp_path / "run"), shards, steps=1, accumulate=2)
    assert any("2 batches make a step, but losses compare the 4 images of one batch, not 8" in one for one in said)
