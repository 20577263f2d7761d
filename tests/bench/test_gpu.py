"""The GPU's benchmark runs, here on the CPU in tiny."""

from __future__ import annotations

import json

import pytest
import torch

from tests.bench import gpu


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_measures_a_step(tmp_path, monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(gpu, "best_precision", lambda accelerator: "32-true")
    try:
        gpu.main(["--device", "cpu", "--steps", "3", "--backend", "eager", "--out", str(tmp_path / "gpu.json")])
    finally:
        torch.set_float32_matmul_precision(before)
    plain, compiled = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (plain["compiled"], compiled["compiled"]) == (False, True)
    for row in (plain, compiled):
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert 0 < row["loss_share"] < 1
        assert row["teraflops"] > 0
        assert row["mfu"] is row["peak_gib"] is None  # of a CPU they are not known
