"""Validation on two ranks whose shares differ: no rank waits for ever, every usable sample counts once, and the numbers
are those of one rank.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from lightning import Trainer, seed_everything

from datamodules import GrainSampling, GranularityData, SkipPolicy
from lightning_modules import BetaClip, HarmoClip, MulClip
from lightning_modules.callbacks import DataMonitor
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_methods import AS_PUBLISHED
from tests.helpers.tiny_run import TINY
from tests.lightning_modules.ranked_run import strategy

METHODS = {
    "beta_clip": BetaClip,
    "mul_clip": partial(MulClip, **AS_PUBLISHED),
    "harmo_clip": partial(HarmoClip, lexeme="mean"),
}
Numbers = dict[str, float]


def write(folder: Path, name: str, numbers: range, bad: int = -1) -> str:
    members = (make_sample(n).members() | ({"jpg": b"no picture"} if n == bad else {}) for n in numbers)
    return str(write_tar(folder / name, members))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("shards")
    nine, four = write(folder, "nine.tar", range(9)), write(folder, "four.tar", range(9, 13))
    return {
        "remote, 9 and 4 samples": [f"file:{nine}", f"file:{four}"],
        "remote, one shard of 3": [f"file:{write(folder, 'three.tar', range(3))}"],
        "the last sample broken": [write(folder, "broken.tar", range(18), bad=17)],
        "the first batches broken": [write(folder, "one.tar", range(3), bad=1)],
    }


def validate(method: str, val_shards: list[str], ranks: int, workers: int = 0) -> Numbers:
    """Metrics of one validation of an untrained method, and the number of samples left out."""
    seed_everything(5)
    data = GranularityData(
        val_shards, val_shards, batch_size=1, val_batch_size=4 if len(val_shards) > 1 or ranks == 1 else 1,
        num_workers=workers, image_size=16, context_length=77, sampling=GrainSampling(2, 3, summaries=1),
        skip=SkipPolicy(0.5), batches_per_epoch=1,
    )  # fmt: skip
    monitor = DataMonitor()
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy("ddp", ranks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False, callbacks=[monitor],
    )  # fmt: skip
    trainer.validate(METHODS[method](encoder=replace(TINY)), data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return found | {"skipped": monitor.totals()["skipped"]}


def validate_all(cases: list[tuple[str, list[str], int]]) -> list[Numbers]:
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT="0", LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    return [validate(name, val, world, workers) for name, val, workers in cases]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ranks_with_other_numbers_of_batches_do_not_hang(shards):
    cases = [(name, val, 0) for name in METHODS for val in shards.values()]
    cases += [("beta_clip", val, 1) for val in shards.values()]
    wanted = [validate(name, val, 1) for name, val, _ in cases]
    for case, alone, *each in zip(cases, wanted, *run_on_ranks(validate_all, 2, cases), strict=True):
        for found in each:
            assert found.keys() == alone.keys(), case
            losses = {name for name in alone if name.startswith("val/loss")}
            assert losses, case
            assert all(found[name] == found[name] and found[name] < 100 for name in losses), case  # no NaN
            for name in alone.keys() - losses:  # losses compare the images of one batch, and batches differ
                assert found[name] == pytest.approx(alone[name], abs=1e-6), (case, name)
    assert [numbers["skipped"] for numbers in wanted] == [0, 0, 1, 1] * 4
