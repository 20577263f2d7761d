"""Names of models: short, different, fit for a folder."""

from __future__ import annotations

import pytest

from lightning_modules.cli.model_names import model_names


@pytest.mark.parametrize(("sources", "names"), [
    (["runs/beta_bce/checkpoints/best.ckpt"], ["beta_bce-best"]),
    (["runs/a/checkpoints/best.ckpt", "/else/where/b/last.ckpt"], ["a-best", "b-last"]),
    (["runs/a/checkpoints/best.ckpt", "old/a/checkpoints/best.ckpt"], ["runs-a-best", "old-a-best"]),
    (["openai/clip-vit-base-patch16", "exported/"], ["clip-vit-base-patch16", "exported"]),
    (["a/x.ckpt", "b/x.ckpt", "a/x.ckpt"], ["a-x", "b-x", "a-x-2"]),
    (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
    (["my model (1)/w.safetensors"], ["w.safetensors"]),
    (["my model (1)"], ["my_model_1_"]),
])  # fmt: skip
def test_names(sources, names):
    assert model_names(sources) == names


def test_a_checkpoint_beside_me_is_named_by_its_run(tmp_path, monkeypatch):
    (tmp_path / "beta_ce" / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "beta_ce" / "checkpoints")
    assert model_names(["best.ckpt"]) == ["beta_ce-best"]
