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

from tests.helpers.diary import diary
from tests.helpers.tiny import write_shards

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PLAIN = ("-m", "lightning_modules")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *PLAIN)


def start(folder: Path, shards: Path, launcher: tuple[str, ...], devices: int, recipe: str | None) -> subprocess.Popen:
    """β-CLIP on 32 samples, four steps, deterministic."""
    folder.mkdir()
    files = ["configs/beta_bce.yaml", *([f"configs/recipes/{recipe}.yaml"] if recipe else [])]
    settings = {
        "data.shards": f"{shards}/*.tar", "data.global_batch_size": 8, "data.num_workers": 1, "images.every_n_steps": 0,
        "trainer.max_epochs": 1, "trainer.enable_progress_bar": "false", "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": "false", "trainer.precision": "32-true", "trainer.deterministic": "true",
        "runs": folder, "trainer.devices": devices,
        "trainer.callbacks+": "tests.helpers.diary.Diary", "trainer.callbacks.folder": folder,
    }  # fmt: skip
    words = [*(f"--config={ROOT / file}" for file in files), *(f"--{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "out").open("w") as out:
        return subprocess.Popen(
            [sys.executable, *launcher, "fit", *words], env=environment, cwd=folder, stdout=out, stderr=out
        )


def test_they_give_the_same_numbers(tmp_path):
    write_shards(tmp_path / "shards", 32, 2)
    runs = {
        "alone": (PLAIN, 1, None), "plain": (PLAIN, 2, "ddp"), "again": (PLAIN, 2, "ddp"),
        "torchrun": (TORCHRUN, 2, "ddp"), "fsdp2": (TORCHRUN, 2, "fsdp2"),
    }  # fmt: skip
    started = {name: start(tmp_path / name, tmp_path / "shards", *how) for name, how in runs.items()}
    for name, process in started.items():
        assert process.wait(1500) == 0, (tmp_path / name / "out").read_text()[-3000:]
    wanted, saved = diary(tmp_path / "alone", 1), {}
    assert len(wanted) == 4
    for name in ("plain", "again", "torchrun", "fsdp2"):
        found = diary(tmp_path / name, 2)
        assert [step["keys"] for step in found] == [step["keys"] for step in wanted]
        assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in wanted], rel=1e-4)
        last = torch.load(tmp_path / name / "beta_bce" / "checkpoints" / "last.ckpt", weights_only=True)
        saved[name] = last["state_dict"]
    for name, weight in saved["plain"].items():
        for other in ("again", "torchrun"):
            assert torch.equal(saved[other][name], weight), f"{other}: {name}"
        assert saved["fsdp2"][name].shape == weight.shape
