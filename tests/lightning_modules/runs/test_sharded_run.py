"""The life of a run whose checkpoints are folders of slices, which two ranks write together."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.runs.checkpoint import RUN
from tests.helpers.commands import Commands, tiny_config
from tests.lightning_modules.runs.test_life import error, files, held

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_it_is_stopped_goes_on_and_refuses_other_settings(tmp_path):
    tiny_config(tmp_path)
    words = (
        *("fit", "--config", "tiny.yaml", "--config", str(ROOT / "configs/recipes/fsdp2.yaml")),
        *("--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy.checkpoint", "sharded"),
        *("--data.batch_size", "4"),
    )
    last = tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt"
    with Commands(tmp_path) as commands:
        started = commands.start(*words, *held("go", 2), ranks=2)
        started.wait_until_it_says("waiting before step 2")
        started.signal(signal.SIGTERM, 0)
        (tmp_path / "go").touch()
        assert started.wait() == 143, started.said
        before = files(tmp_path / "runs")
        status, said = commands.run(*words, "--model.beta", "0.1", ranks=2)
        assert status == 2
        assert "model.beta: 0.5 → 0.1" in error(said)
        assert files(tmp_path / "runs") == before
        status, said = commands.run(*words, ranks=2)
        assert status == 0, said
        assert "runs/tiny: goes on at step 2, from " in said
        status, said = commands.run(*words, ranks=2)
        assert status == 0, said
        assert "runs/tiny: finished, 2 epochs (6 steps)" in said
    meta = torch.load(last / "meta.pt", weights_only=True)
    assert meta["global_step"] == 6
    assert yaml.safe_load(meta[RUN]["config"]) == yaml.safe_load((last.parents[1] / "config.yaml").read_text())
    assert not list(last.parents[1].glob("**/.*.writing"))
