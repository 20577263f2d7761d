"""CONTRIBUTING.md's examples: a method, a benchmark and a source of one's own, each used as its reader would use it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules import GrainSampling, GranularityData
from datamodules.prepare.job import PrepareJob
from eval.interfaces import EvalContext
from lightning_modules.cli.evaluate import evaluate
from lightning_modules.cli.export import export
from lightning_modules.cli.main import main
from tests.examples.flags import flags
from tests.examples.notes import prepare_notes
from tests.examples.siglip import SigLip
from tests.helpers.tiny import picture, write_shards
from tests.helpers.tiny_run import TINY, fit

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("red", "green", "blue")


def test_an_own_method_trains_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.chdir(tmp_path)
    shards = [str(shard) for shard in write_shards(tmp_path, 24, 1)]
    sizes = {name: value if isinstance(value, str) else json.dumps(value) for name, value in vars(TINY).items()}
    encoder = [f"--model.init_args.encoder.{name}={value}" for name, value in sizes.items()]
    command = ["fit", "--config", str(ROOT / "configs/clip.yaml"), "--model=tests.examples.siglip.SigLip", *encoder]
    command += [f"--data.shards={shards}", f"--data.val_shards={shards}", "--data.batch_size=8", "--data.num_workers=0"]
    command += ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--model.init_args.bias=-3"]
    command += ["--model.init_args.pretrained=null"]
    assert main(command) == 0
    results = json.loads((tmp_path / "runs/clip/results.json").read_text())
    assert results["settings"] == {"method": "SigLip", "step": 6}
    saved = torch.load(tmp_path / "runs/clip/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["bias"] == -3
    assert saved["state_dict"]["sigmoid.bias"] != -3  # it is learnt


def test_a_method_in_one_new_file_is_trained_measured_and_exported(tmp_path, monkeypatch):
    """No list, catalogue or table has an entry for it; measuring and exporting need not even find the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (ROOT / "tests/examples/siglip.py").read_text().replace("class SigLip", "class NewMethod")
    (tmp_path / "new_method.py").write_text(source)
    method, data = importlib.import_module("new_method").NewMethod, tmp_path / "data"
    fit(data, epochs=1, method=method, bias=-3.0)
    monkeypatch.delitem(sys.modules, "new_method")
    (tmp_path / "new_method.py").unlink()
    (tmp_path / "flags").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (30, 20), colour).save(tmp_path / "flags" / f"{colour}.png")
    checkpoint = data / "checkpoints/last.ckpt"
    measured = evaluate(str(checkpoint), [flags], EvalContext(tmp_path), torch.device("cpu"))
    assert measured.settings["model"]["method"] == "NewMethod"
    assert set(measured.numbers) == {"flags/accuracy"}
    export(checkpoint, tmp_path / "exported")
    assert "NewMethod" in (tmp_path / "exported/README.md").read_text()


def test_its_loss_is_siglips(tmp_path):
    shards = [str(shard) for shard in write_shards(tmp_path, 6, 1)]
    data = GranularityData(shards, batch_size=6, num_workers=0, image_size=16, sampling=GrainSampling(0, 0))
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    method = SigLip(bias=-2.0, encoder=TINY)
    features = method.features(batch)
    texts = features.texts_at(next(iter(batch.grains.values())))[:, 0]
    logits = method.encoder.logit_scale * features.images.image @ texts.T - 2.0
    wanted = -torch.nn.functional.logsigmoid(logits * (2 * torch.eye(6) - 1)).sum() / 6
    torch.testing.assert_close(method.losses(batch, features)["sigmoid"], wanted)


def test_an_own_source_becomes_shards(tmp_path):
    for number, colour in enumerate(COLOURS):
        (tmp_path / f"{colour}.jpg").write_bytes(picture(number))
        (tmp_path / f"{colour}.txt").write_text(f"A {colour} ball lies on the grass. It is 3.5 m wide.")
    manifest = prepare_notes(tmp_path, PrepareJob(tmp_path / "shards", extractor="rules"))
    assert manifest is not None
    assert manifest["samples"] == 3
    data = GranularityData([str(tmp_path / "shards")], batch_size=3, num_workers=0, image_size=16)
    data.setup("fit")
    assert len(next(iter(data.train_dataloader())).images) == 3


def test_an_own_benchmark_tests_a_checkpoint(tmp_path):
    (tmp_path / "flags").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (30, 20), colour).save(tmp_path / "flags" / f"{colour}.png")
    fit(tmp_path / "run", epochs=1)
    checkpoint = str(tmp_path / "run/checkpoints/last.ckpt")
    found = evaluate(checkpoint, [flags], EvalContext(tmp_path), torch.device("cpu"))
    assert found.numbers["flags/accuracy"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert found.results["flags"].counts == {"pictures": 3}
