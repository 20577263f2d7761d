"""``lightning evaluate`` end to end, with a run's checkpoint and with an exported folder; and boxes in validation."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch.nn import functional

from datamodules import GranularityData
from datamodules.batch import Batch
from datamodules.batching.tokenizer import word_hash
from datamodules.sample import Region
from datamodules.scenes import ensure_shards
from datamodules.shards.writer import write_shards
from eval import BoxAccuracy
from eval.benchmarks.catalogue import BENCHMARKS
from lightning_modules import BetaClip
from lightning_modules.cli.evaluate import load
from lightning_modules.cli.main import main
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.methods.validation_metrics import Validation
from lightning_modules.networks import DualEncoder
from tests.eval.official import write_coco, write_lvis, write_panoptic
from tests.helpers.tiny import make_sample
from tests.helpers.tiny_run import TINY, data, fit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "COCO"
    write_coco(folder)
    write_lvis(folder)
    write_panoptic(folder)
    return folder


def evaluate(model, benchmark, root, *more):
    return main(["evaluate", "--model", str(model), "--benchmark", benchmark, "--root", str(root), *map(str, more)])


def test_all_benchmarks_of_a_checkpoint(checkpoint, root, tmp_path, capsys):
    names = ["coco_boxes", "lvis_boxes", "coco_panoptic_boxes"]
    out = tmp_path / "numbers.json"
    assert evaluate(checkpoint, ",".join(names), root, "--out", out, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    for words in ("coco boxes", "lvis boxes", "coco panoptic boxes", "top5", "class", "mean"):
        assert words in shown
    found = json.loads(out.read_text())
    assert {name.partition("/")[0] for name in found["numbers"]} == set(names)
    assert found["numbers"]["coco_boxes/boxes"] == 5
    settings = found["settings"]
    assert (settings["model"]["method"], settings["model"]["steps"]) == ("BetaClip", 3)
    assert settings["model"]["encoder"]["image_size"] == 16
    assert list(settings["benchmarks"]) == names
    panoptic = settings["benchmarks"]["coco_panoptic_boxes"]
    assert panoptic["counts"] == {"box under 8² or over 1024² pixels": 2}
    assert len(panoptic["files"]["panoptic_val2017.json"]) == 64


def test_an_exported_folder_gives_the_same_numbers(checkpoint, root, tmp_path):
    assert main(["export", str(checkpoint), str(tmp_path / "clip")]) == 0
    found = []
    for number, model in enumerate((checkpoint, tmp_path / "clip")):
        out = tmp_path / f"{number}.json"
        assert evaluate(model, "coco_boxes", root, "--out", out, "--batch_size", 1 + number) == 0
        found.append(json.loads(out.read_text())["numbers"])
    assert found[0] == found[1]


def test_the_model_is_the_checkpoint_s_in_evaluation(checkpoint):
    encoder, _ = load(str(checkpoint))
    model, method = EvaluationModel(encoder, torch.device("cpu")), BetaClip.load_from_checkpoint(checkpoint).eval()
    texts = ["a cat", "two dogs", "a cat"]
    torch.testing.assert_close(model.encode_text(texts), method.encode_text(texts))
    assert not model.encode_text(texts).requires_grad
    grey = model.encode_image(torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)).image
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((128 / 255 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(grey, method.encode_image(pixels))


def test_refusals(checkpoint, root, tmp_path, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stopped:
            evaluate(*arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "no benchmark 'coco'; did you mean" in refused(checkpoint, "coco", root)
    assert "holds no annotations/instances_val2017.json; --root must be" in refused(checkpoint, "coco_boxes", tmp_path)
    assert "no such checkpoint" in refused(tmp_path / "none.ckpt", "coco_boxes", root)
    assert "is no file, no folder, no hub id" in refused(tmp_path / "none", "coco_boxes", root)
    assert "--device must be a device that is here" in refused(checkpoint, "coco_boxes", root, "--device", "abacus")
    assert "--batch_size must be a whole number of at least 1, got '0'" in refused(
        checkpoint, "coco_boxes", root, "--batch_size", 0
    )
    (root / "val2017" / "000000000001.png").unlink()
    assert "--skip_missing leaves" in refused(checkpoint, "coco_boxes", root)


def test_what_is_left_out_is_said(checkpoint, root, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    (root / "val2017" / "000000000001.png").unlink()
    assert evaluate(checkpoint, "coco_boxes", root, "--skip_missing") == 0
    assert "coco_boxes: 2 × box of a missing image" in caplog.text


def test_earlier_numbers_are_kept_where_a_later_benchmark_fails(checkpoint, root, tmp_path, capsys):
    (root / "annotations" / "lvis_v1_val.json").unlink()
    with pytest.raises(SystemExit):
        evaluate(checkpoint, "coco_boxes,lvis_boxes", root, "--out", tmp_path / "some.json")
    assert list(json.loads((tmp_path / "some.json").read_text())["settings"]["benchmarks"]) == ["coco_boxes"]


def test_help_names_the_command_and_the_benchmarks(capsys):
    main(["--help"])
    assert "lightning evaluate --model" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(one in shown for one in BENCHMARKS)


LABELS = ("ball", "cube", "star")


def labelled_data(folder, labels=LABELS):
    """Validation shards whose boxes are labelled in turn; every fourth image's second box has no label."""
    samples = []
    for number in range(12):
        second = Region((0.3, 0.3, 0.9, 0.7), None, None if number % 4 == 0 else labels[(number + 1) % len(labels)])
        samples.append(
            make_sample(number, regions=(Region((0.0, 0.0, 0.5, 0.5), 0, labels[number % len(labels)]), second))
        )
    write_shards(samples, folder, source="test")
    return GranularityData(
        [str(folder)], [str(folder)], val_batch_size=5, num_workers=0, image_size=16, context_length=77
    )


def batches(module: GranularityData) -> list[Batch]:
    module.setup("validate")
    return [module.on_after_batch_transfer(batch, 0) for batch in module.val_dataloader()]


@torch.no_grad()
def test_validation_classifies_the_labelled_boxes(tmp_path):
    torch.manual_seed(0)
    module = labelled_data(tmp_path)
    method = BetaClip(encoder=TINY).eval()
    seen = batches(module)
    assert module.label_names() == LABELS
    validation = Validation()
    validation.prepare(module.label_names(), method.encode_text)
    expected = BoxAccuracy()
    classes = torch.stack([method.encode_text([f"a {name}.", f"the {name}."]).mean(0) for name in LABELS])
    for batch in seen:
        features = method.features(batch)
        validation.update(batch, features.images, features.texts)
        for row, code in enumerate(batch.regions.label.tolist()):
            if code == 0:
                continue
            image = batch.regions.image[row]
            box = (batch.regions.boxes[row] * 2)[None]  # the grid is 2 by 2
            vector = functional.normalize(_mean_inside(features.images.dense[image], box[0])[None], dim=1)
            label = torch.tensor([[word_hash(name) for name in LABELS].index(code)])
            key = [f"{batch.keys[image]}/{row}"]
            expected.update(vector, functional.normalize(classes, dim=1), label, torch.zeros(1, dtype=torch.long), key)
    numbers = {name: value for name, value in validation.compute().items() if name.startswith("boxes/")}
    assert numbers == expected.compute()
    assert numbers["boxes/boxes"] == 24 - 3
    assert 0 < numbers["boxes/top1"] < 1


def _mean_inside(dense, box):
    from torchvision.ops import roi_align

    rois = torch.cat([torch.zeros(1), box])[None]
    return roi_align(dense[None], rois, 1, aligned=True).flatten()


@torch.no_grad()
def test_unlabelled_data_has_no_box_numbers(tmp_path):
    module = labelled_data(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "labels"}))
    method, validation = BetaClip(encoder=TINY), Validation()
    seen = batches(module)
    assert module.label_names() == ()
    validation.prepare(module.label_names(), method.encode_text)
    for batch in seen:
        features = method.features(batch)
        validation.update(batch, features.images, features.texts)
    numbers = validation.compute()
    assert "caption/text_to_image/R@1" in numbers
    assert not [name for name in numbers if name.startswith("boxes")]


def test_a_run_logs_the_boxes(tmp_path):
    module = labelled_data(tmp_path)
    from lightning import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(BetaClip(encoder=TINY), module, verbose=False)
    assert trainer.callback_metrics["val/boxes/boxes"] == 21
    assert 0 <= trainer.callback_metrics["val/boxes/top1"] <= 1


def test_labels_must_differ():
    with pytest.raises(ValueError, match="labels must differ, got"):
        Validation().prepare(["cube", "cube"], lambda texts: torch.eye(len(texts)))


def test_manifests_name_the_labels(tmp_path, monkeypatch):
    held_out = ensure_shards(tmp_path, train=2, dev=2, held_out=2).held_out
    labels = json.loads((held_out[0].parent / "manifest.json").read_text())["labels"]
    assert (len(labels), labels[0], labels[-1]) == (132, "black arrow", "yellow triangle")
    monkeypatch.setattr("datamodules.shards.writer.MOST_LABELS", 2)
    labelled_data(tmp_path / "few", labels=("ball", "cube"))
    labelled_data(tmp_path / "many")
    few, many = (json.loads((tmp_path / name / "manifest.json").read_text())["labels"] for name in ("few", "many"))
    assert (few, many) == (["ball", "cube"], [])


def test_shards_without_a_manifest_have_no_labels(tmp_path):
    module = data(tmp_path)
    module.setup("validate")
    assert module.label_names() == ()


def test_any_clip_is_loaded_by_its_folder(tmp_path):
    torch.manual_seed(0)
    encoder = DualEncoder(TINY)
    encoder.save_pretrained(tmp_path)
    loaded, words = load(str(tmp_path))
    assert words["source"] == str(tmp_path)
    assert words["encoder"]["embed_dim"] == 16
    torch.testing.assert_close(loaded.image_tower.projection.weight, encoder.image_tower.projection.weight)
