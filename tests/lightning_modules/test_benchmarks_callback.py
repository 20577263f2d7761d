"""Benchmarks in ``fit`` and in ``lightning test``, as a config names them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.benchmarks.coco_captions import coco_val2017
from eval.interfaces import EvalContext
from lightning_modules.callbacks import Benchmarks
from lightning_modules.cli.evaluate import load
from lightning_modules.cli.main import main
from lightning_modules.inference.evaluation_model import EvaluationModel
from tests.eval.benchmarks.test_localisation import write_entities
from tests.eval.releases import write_val2017
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import TINY, fit


class Modes(Callback):
    """Notes whether the encoder trains."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.add(pl_module.encoder.training)


@pytest.mark.slow
def test_every_few_steps_and_training_goes_on(tmp_path):
    write_val2017(tmp_path / "data")
    modes = Modes()
    write_entities(tmp_path / "data")
    names = ["coco_val2017", "flickr30k_entities_attention"]  # the second asks for the method's own attention
    trainer = fit(tmp_path / "with", Benchmarks(names, str(tmp_path / "data"), every_n_steps=4), modes)
    assert modes.seen == {True}
    events = EventAccumulator(str(tmp_path / "with")).Reload()
    name = "benchmark/coco_val2017/text_to_image/R@1"
    assert [event.step for event in events.Scalars(name)] == [4, 8, 12]
    plain = fit(tmp_path / "without")
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)  # measuring changes nothing
    assert trainer.model.pooling.training
    model = EvaluationModel(load(str(tmp_path / "with" / "checkpoints" / "last.ckpt"))[0], torch.device("cpu"))
    found = coco_val2017(model, EvalContext(tmp_path / "data")).numbers["coco_val2017/text_to_image/R@1"]
    assert trainer.global_step == 12
    assert events.Scalars(name)[-1].value == pytest.approx(found)


def test_lightning_test_runs_what_the_config_names(tmp_path, capsys):
    write_val2017(tmp_path / "data")
    fit(tmp_path / "run", epochs=1)
    shards = [str(path) for path in write_shards(tmp_path / "shards", 8, 1)]
    sizes = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    config = {
        "model": {"class_path": "lightning_modules.BetaClip", "init_args": {"encoder": sizes}},
        "data": {"shards": shards, "val_shards": shards, "num_workers": 0, "val_batch_size": 8},
        "runs": str(tmp_path / "runs"),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "callbacks": [
                {
                    "class_path": "lightning_modules.callbacks.Benchmarks",
                    "init_args": {"names": ["coco_val2017"], "root": str(tmp_path / "data")},
                }
            ],
        },
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(config))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", str(tmp_path / "test.yaml"), "--ckpt_path", str(last)]) == 0
    shown = capsys.readouterr().out
    assert "benchmark · coco val2017 · text to image" in shown
    assert "test/caption/text_to_image/R@1" in shown
    (results,) = (tmp_path / "runs" / "test").glob("test-*/results.json")  # the config's name, the command, the date
    numbers = json.loads(results.read_text())["numbers"]
    assert {"caption/text_to_image/R@1", "benchmark/coco_val2017/text_to_image/R@1"} <= numbers.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["cocoa"]}, "no benchmark 'cocoa'"),
        (
            {"names": ["folder:a/val", "folder:b/val"]},
            "names: folder:a/val and folder:b/val would both be called",
        ),
        ({"every_n_steps": -1}, "every_n_steps must be at least 0, got -1"),
        ({"root": "no/such/folder"}, "root must be the folder of the data sets, got no/such/folder"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_refusals(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Benchmarks(**({"names": ["coco_val2017"], "root": str(tmp_path)} | changes))
