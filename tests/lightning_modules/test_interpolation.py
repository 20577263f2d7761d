"""Models between a run's start and its trained weights: their weights, their export, and a table along the line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import CLIPModel

from lightning_modules import ClipFinetune, CropTarget, HarmoClip, OptimConfig
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.weight_interpolation import average, interpolated
from lightning_modules.cli.main import main
from lightning_modules.cli.read_checkpoint import encoder_of, read
from lightning_modules.networks import DualEncoder, load_encoder
from lightning_modules.networks.encoder import whole_state
from lightning_modules.networks.lora import LoraConfig
from tests.eval import releases
from tests.helpers.tiny_methods import method_data
from tests.helpers.tiny_run import TINY, fit, fit_method

LONG = replace(TINY, context_length=96)  # the start reads 77 tokens, the run 96


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A start, and runs from it: of plain weights, of adapters, and from scratch."""
    folder = tmp_path_factory.mktemp("stage")
    torch.manual_seed(7)
    DualEncoder(TINY).save_pretrained(folder / "start")
    start = str(folder / "start")
    fit(folder / "plain", epochs=1, method=ClipFinetune, encoder=LONG, pretrained=start)
    fit(folder / "lora", epochs=1, method=ClipFinetune, encoder=LONG, pretrained=start, lora=LoraConfig(rank=2))
    fit(folder / "scratch", epochs=1, method=ClipFinetune)
    return folder


def last(stage, name):
    return stage / name / "checkpoints" / "last.ckpt"


def exported(capsys, *arguments):
    """What the command refuses with; "" where it is done."""
    try:
        status = main(["export", *map(str, arguments)])
    except SystemExit as stopped:
        status = stopped.code
    return capsys.readouterr().err if status else ""


def test_weights_by_hand():
    start, trained = torch.tensor([1.0, -2.0, 1e-3]), torch.tensor([3.0, 2.0, 7e7])
    state = {"a": trained, "ids": torch.tensor([5])}
    mixed = average(state, {"a": start, "ids": torch.tensor([4])}, 0.25)
    torch.testing.assert_close(mixed["a"], torch.tensor([1.5, -1.0, 17500000.0]))
    assert mixed["ids"] == 5
    assert torch.equal(average(state, {"a": start, "ids": state["ids"]}, 0.0)["a"], start)
    assert torch.equal(average(state, {"a": start, "ids": state["ids"]}, 1.0)["a"], trained)


@pytest.mark.parametrize("name", ["plain", "lora"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_an_export_between(stage, name, share, tmp_path, capsys):
    """transformers loads it, with the start's position table stretched to the run's context."""
    assert not exported(capsys, last(stage, name), tmp_path / "out", "--interpolate", share)
    trained = whole_state(encoder_of(read(last(stage, name))))
    start = whole_state(load_encoder(stage / "start", 96))
    between = whole_state(load_encoder(tmp_path / "out"))
    for key, weight in trained.items():
        expected = weight if share == 1 else (1 - share) * start[key] + share * weight
        torch.testing.assert_close(between[key], expected, rtol=0, atol=0 if share in (0, 1) else 1e-6, msg=key)
    assert not torch.equal(
        trained["image_tower.blocks.0.attn.qkv.weight"], start["image_tower.blocks.0.attn.qkv.weight"]
    )
    assert CLIPModel.from_pretrained(tmp_path / "out").config.text_config.max_position_embeddings == 96
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{share:g} of the trained ones and {1 - share:g} of {stage / 'start'}'s" in card
    assert "model-index" not in card


def test_the_start_is_recorded_and_outlives_a_program_s_own_resume(stage):
    assert read(last(stage, "plain"))[KEY]["start"] == str(stage / "start")
    assert read(last(stage, "scratch"))[KEY]["start"] is None
    assert ClipFinetune.load_from_checkpoint(last(stage, "plain")).start == str(stage / "start")
    assert ClipFinetune(encoder=TINY, pretrained=str(stage / "start")).start == str(stage / "start")


def test_another_start(stage, tmp_path, capsys):
    """Also for a run from scratch."""
    torch.manual_seed(8)
    DualEncoder(TINY).save_pretrained(tmp_path / "other")
    start = ("--start", tmp_path / "other", "--interpolate", 0)
    assert not exported(capsys, last(stage, "scratch"), tmp_path / "out", *start)
    wanted = whole_state(load_encoder(tmp_path / "other"))
    for key, weight in whole_state(load_encoder(tmp_path / "out")).items():
        assert torch.equal(weight, wanted[key]), key


def test_a_teacher_s_share_comes_first(tmp_path, stage):
    make = dict(encoder=TINY, pretrained=str(stage / "start"), optim=OptimConfig(lr=1e-2, warmup_steps=0))
    target = CropTarget(teacher="frozen", student_share=0.5)
    method = HarmoClip(region_losses=[target], **make)
    fit_method(tmp_path / "logs", method, method_data(tmp_path / "data"), 1)
    method.trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "out"), "--interpolate", "0.5"]) == 0
    student, start = whole_state(method.encoder), whole_state(load_encoder(stage / "start"))
    for key, weight in whole_state(load_encoder(tmp_path / "out")).items():
        torch.testing.assert_close(weight, 0.25 * student[key] + 0.75 * start[key], rtol=0, atol=1e-6, msg=key)


def test_models_of_two_sizes_have_no_line():
    wide = DualEncoder(replace(TINY, image_layers=3))
    with pytest.raises(
        ValueError, match=r"the start is of another size than the trained model: DualEncoder \(image_tow"
    ):
        interpolated(DualEncoder(TINY), wide, 0.5)


def test_a_table_along_the_line(stage, tmp_path, capsys):
    releases.write_urban1k(tmp_path / "data")
    command = ["evaluate", "--benchmark", "urban1k", "--root", str(tmp_path / "data"), "--device", "cpu"]
    model = ["--model", str(last(stage, "plain"))]
    line = [*command, *model, "--interpolate", "0,0.5,1", "--out", str(tmp_path / "line")]
    assert main([*line, "--bootstrap", "10"]) == 0
    shown = capsys.readouterr().out
    assert "by the share of its weights" in " ".join(shown.split())
    assert all(f" {share} " in shown for share in ("0", "0.5", "1"))
    numbers = json.loads((tmp_path / "line" / "interpolation.json").read_text())
    assert numbers["settings"] == {"source": str(last(stage, "plain")), "start": str(stage / "start")}
    ends = {}
    DualEncoder.from_pretrained(stage / "start", 96).save_pretrained(tmp_path / "long")
    for share, source in ((0, tmp_path / "long"), (1, last(stage, "plain"))):
        assert main([*command, "--model", str(source), "--out", str(tmp_path / f"end{share}")]) == 0
        ends[share] = json.loads((tmp_path / f"end{share}" / "results.json").read_text())["numbers"]
        found = {n.rpartition("/")[0]: v for n, v in numbers["numbers"].items() if n.endswith(f"/{share}")}
        assert found == pytest.approx(ends[share])
    rows = (tmp_path / "line" / "interpolation.md").read_text().splitlines()
    assert rows[0] == "|  | 0 | 0.5 | 1 |"
    assert len(rows) == 2 + len(ends[1])
    folders = sorted(file.parent.name for file in (tmp_path / "line").glob("*/results.json"))
    assert [name.rpartition("-")[2] for name in folders] == ["0", "0.5", "1"]


def test_refusals(stage, tmp_path, capsys):
    out, plain, scratch = tmp_path / "out", last(stage, "plain"), last(stage, "scratch")
    half = ("--interpolate", 0.5)
    told = exported(capsys, scratch, out, *half)
    assert "last.ckpt was trained from scratch: --start SOURCE names weights to interpolate from" in told
    assert "last.ckpt cannot be loaded: nowhere is no file" in exported(capsys, plain, out, *half, "--start", "nowhere")
    DualEncoder(replace(TINY, image_layers=3)).save_pretrained(tmp_path / "deep")
    told = exported(capsys, plain, out, *half, "--start", tmp_path / "deep")
    assert "the start is of another size than the trained model: DualEncoder (image_tower.blocks.2" in told
    assert "--start goes with --interpolate, got x alone" in exported(capsys, plain, out, "--start", "x")
    assert "--interpolate must be a number from 0 to 1, got '2'" in exported(capsys, plain, out, "--interpolate", 2)
    assert "--format must be transformers, open_clip or onnx" in exported(
        capsys, plain, out, *half, "--format", "checkpoint"
    )
    assert not out.exists()
    shutil.move(stage / "start", tmp_path / "moved")
    told = exported(capsys, plain, out, *half)
    shutil.move(tmp_path / "moved", stage / "start")
    assert "the start of last.ckpt cannot be loaded" in told
    assert told.count("\n") == 1
    assert "--start SOURCE names another" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model a.ckpt --model b.ckpt --interpolate 0,1", "--interpolate takes one --model, the .ckpt file of a run"),
        ("--model my-clip --interpolate 0,1", "--interpolate takes one --model, the .ckpt file of a run, got my-clip"),
        ("--model a.ckpt --interpolate 0,2", "--interpolate must be a number from 0 to 1, got '2'"),
        ("--model a.ckpt --interpolate 0,0.0", "--interpolate must name each once, got '0' twice"),
        ("--model a.ckpt --interpolate nan", "--interpolate must be a number from 0 to 1, got 'nan'"),
        ("--model a.ckpt --start b", "--start goes with --interpolate, got b alone"),
        ("--model a.ckpt --interpolate 0,1", "a.ckpt: no such checkpoint"),
    ],
)
def test_refusals_of_evaluate(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--benchmark", "urban1k", "--root", ".", *arguments.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
