"""Samples are told apart by shard and number: keys may repeat."""

from __future__ import annotations

import pytest
from lightning import Trainer, seed_everything

from datamodules import GrainSampling, GranularityData
from lightning_modules import BetaClip
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_run import TINY


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("remote", [False, True])
def test_shards_that_count_from_zero_each_are_not_merged(tmp_path, remote):
    """Two validation shards of 20 different samples, keys 000000 to 000019 in both."""
    folders = [tmp_path / name for name in "ab"]
    for n, folder in enumerate(folders):
        folder.mkdir()
        write_tar(folder / "val.tar", (make_sample(20 * n + i, key=f"{i:06d}") for i in range(20)))
    shards = [f"{'file:' if remote else ''}{folder / 'val.tar'}" for folder in folders]
    seed_everything(5)
    data = GranularityData(
        shards, shards, val_batch_size=8, num_workers=0, image_size=16, context_length=77, sampling=GrainSampling(2, 2),
        batches_per_epoch=1,
    )  # fmt: skip
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(BetaClip(encoder=TINY), data, verbose=False)
    for direction in ("image_to_text", "text_to_image"):
        assert trainer.callback_metrics[f"val/caption/{direction}/queries"] == 40
