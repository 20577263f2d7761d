"""The folder in which bad inputs are tried: a trained model, shards, tables and images, and broken ones of each."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from lightning_modules import BetaClip, ClipFinetune
from lightning_modules.cli.export import export
from tests.eval import releases
from tests.helpers.tiny import picture, write_shards
from tests.helpers.tiny_run import TINY, fit

FILES = {
    "binary.yaml": b"\x7fELF\xff\xfe\x00",
    "empty.yaml": b"# nothing but a comment\n",
    "list.yaml": b"- a\n- b\n",
    "words.yaml": b"only some words\n",
    "brace.yaml": b"model: {beta: 0.5\ndata: {seed: 1}\n",
    "tab.yaml": b"model:\n\tbeta: 1\n",
    "twice.yaml": b"model:\n  init_args:\n    beta: 0.5\n    beta: 0.6\n",
    "modle.yaml": b"modle:\n  class_path: BetaClip\n",
    "betta.yaml": b"model:\n  init_args:\n    betta: 0.5\n",
    "high.yaml": b"model:\n  init_args:\n    beta: high\n",
    "range.yaml": b"model:\n  init_args:\n    beta: 1.5\n",
    "callback.yaml": b"trainer:\n  callbacks:\n  - class_path: lightning_modules.callbacks.Benchmarkz\n",
    "text.tar": b"this is no tar\n" * 100,
    "text.ckpt": b"this is no checkpoint\n",
    "text.jpg": b"this is no image\n",
    "table.csv": b"image,caption\ncat.jpg,A cat on a mat.\n",
    "missing.csv": b"image,caption\nnowhere.jpg,A cat on a mat.\n",
    "columns.csv": b"a,b\n1,2\n",
    "file": b"",
}


def write_stage(folder: Path) -> None:
    """Write everything that the rows of ``table.txt`` name."""
    write_shards(folder / "shards", 24, 2)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for method, name in ((BetaClip, "run"), (ClipFinetune, "clip")):
        settings = {"pooling_heads": 2} if method is BetaClip else {}
        fit(folder / name, epochs=1, method=method, **settings)
        shutil.copy(folder / name / "checkpoints" / "last.ckpt", folder / f"{name}.ckpt")
    whole = (folder / "run.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.ckpt")
    export(folder / "clip.ckpt", folder / "my-clip")
    (folder / "noweights").mkdir()
    (folder / "noweights" / "config.json").write_text("{}")
    (folder / "nothing").mkdir()
    (folder / "emptyrun").mkdir()
    (folder / "emptyrun" / "events.out.tfevents.1.host.1.0").touch()
    tar = (folder / "shards" / "train-000.tar").read_bytes()
    (folder / "cut.tar").write_bytes(tar[:5000])
    (folder / "cat.jpg").write_bytes(picture(1))
    (folder / "cut.jpg").write_bytes(picture(1)[:300])
    releases.write_urban1k(folder / "DATA")
    write_config(folder / "tiny.yaml")


def write_config(file: Path) -> None:
    """Write the config of three steps of β-CLIP on the folder's shards."""
    config = {
        "seed_everything": 3,
        "model": {
            "class_path": "lightning_modules.BetaClip",
            "init_args": {"encoder": asdict(TINY), "optim": {"lr": 1e-3, "warmup_steps": 2}, "pooling_heads": 2},
        },
        "data": {"shards": "shards", "val_shards": "shards", "batch_size": 8, "val_batch_size": 8, "num_workers": 0},
        "trainer": {
            "max_epochs": 1, "accelerator": "cpu", "devices": 1, "precision": "32-true", "enable_progress_bar": False,
        },
        "images": {"every_n_steps": 0},
        "diagnostics": {"every_n_steps": 0},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(config))
