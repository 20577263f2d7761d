"""Real JPEGs, captions and boxes through every part: prepare, read, train until it knows the images by heart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lightning_modules.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
ALL_OF_MULCLIP = (
    "--model.init_args.word_weight=1", "--model.init_args.subcaption_weight=1",
    "--model.init_args.patches=calibrated", "--model.init_args.calibration={gain: 20}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("config", "more"), [("beta_bce", ()), ("mulclip", ALL_OF_MULCLIP)])
def test_fifty_photographs_are_learnt_by_heart(config, more, shared, nltk_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.chdir(tmp_path)
    coco = shared / "data" / "coco_tiny"
    command = ["prepare", "coco", f"--images={coco / 'train2017'}", "--out=shards", "--max_side=96"]
    command += [f"--captions={coco / 'annotations/captions_train2017.json'}"]
    command += [f"--instances={coco / 'annotations/instances_train2017.json'}"]
    assert main(command) == 0
    settings = [
        "--data.shards=shards", "--data.val_shards=shards", "--data.batch_size=25", "--data.num_workers=0",
        "--data.sampling.sentences=1", "--data.sampling.phrases=3", "--data.train_transform=datamodules.Squash",
        "--model.init_args.pretrained=null", "--model.init_args.optim.lr=1e-3",
        "--model.init_args.optim.added_modules_lr=2e-3", "--model.init_args.optim.warmup_steps=10",
        "--data.batches_per_epoch=120", "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        *more,
    ]  # fmt: skip
    assert main(["fit", "--config", str(ROOT / f"configs/{config}.yaml"), *settings]) == 0
    numbers = json.loads((tmp_path / f"runs/{config}/results.json").read_text())["numbers"]
    assert numbers["caption/text_to_image/R@1"] > 0.9
    assert numbers["caption/image_to_text/R@1"] > 0.9
