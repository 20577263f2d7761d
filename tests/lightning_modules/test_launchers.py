"""The ways to start several ranks by the command line give the same numbers: Lightning's launcher and torchrun, DDP and
FSDP2; and the same run again gives the same bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.diary import diary
from tests.tiny import write_shards

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("-m", "lightning_modules")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *PLAIN)


def fit(folder: Path, shards: Path, launcher: tuple[str, ...], devices: int, recipe: str | None = None) -> dict:
    """β-CLIP on 32 samples, two epochs of four steps, deterministic; its last checkpoint."""
    folder.mkdir()
    files = ["configs/beta_bce.yaml", *([f"configs/recipes/{recipe}.yaml"] if recipe else [])]
    settings = {
        "data.shards": f"{shards}/*.tar", "data.global_batch_size": 8, "data.workers": 1, "pictures.every_n_steps": 0,
        "trainer.max_epochs": 2, "trainer.enable_progress_bar": "false", "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": "false", "trainer.precision": "32-true", "trainer.deterministic": "true",
        "trainer.logger.init_args.save_dir": folder, "trainer.devices": devices,
        "trainer.callbacks+": "tests.diary.Diary", "trainer.callbacks.folder": folder,
    }  # fmt: skip
    words = [*(f"--config={ROOT / file}" for file in files), *(f"--{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "fit", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "beta_bce" / "checkpoints" / "last.ckpt", weights_only=True)


def test_they_give_the_same_numbers(tmp_path):
    write_shards(tmp_path / "shards", 32, 2)
    shards, saved = tmp_path / "shards", {}
    for name, launcher, devices, recipe in [
        ("alone", PLAIN, 1, None),
        ("plain", PLAIN, 2, "ddp"),
        ("again", PLAIN, 2, "ddp"),
        ("torchrun", TORCHRUN, 2, "ddp"),
        ("fsdp2", TORCHRUN, 2, "fsdp2"),
    ]:
        saved[name] = fit(tmp_path / name, shards, launcher, devices, recipe)
    wanted = diary(tmp_path / "alone", 1)
    for name in ("plain", "again", "torchrun", "fsdp2"):
        found = diary(tmp_path / name, 2)
        assert [step["keys"] for step in found] == [step["keys"] for step in wanted]
        assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in wanted], rel=1e-4)
    for name, weight in saved["plain"]["state_dict"].items():
        for other in ("again", "torchrun"):
            assert torch.equal(saved[other]["state_dict"][name], weight), f"{other}: {name}"
        assert saved["fsdp2"]["state_dict"][name].shape == weight.shape
