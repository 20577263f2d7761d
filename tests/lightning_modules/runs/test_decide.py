"""The decision at a run's start, by what lies in its folder; without training anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.checkpoints.atomic_save import CheckpointError
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.runs.checkpoint import RUN
from lightning_modules.runs.folder import RunFolder
from lightning_modules.runs.start import Limits, Resume, RunPlan, RunRefused, check_shards, decide

SETTINGS = {"model": "a.Method", "model.beta": 0.5, "data.shards": "x.tar", "data.batch_size": 8, "seed_everything": 3}
SHAPES = {"encoder.w": (2, 3)}


def write(
    folder: Path, name: str = "last", step: int = 6, epochs: int = 2, numbers_step: int | None = None, **run
) -> Path:
    """A checkpoint that holds what is looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    current = {"ready": epochs, "started": epochs, "processed": epochs, "completed": epochs}
    torch.save(
        {
            "global_step": step,
            "loops": {"fit_loop": {"epoch_progress": {"current": current}}},
            "state_dict": {"encoder.w": torch.zeros(2, 3), "averaged.w": torch.zeros(2, 3)},
            "GranularityData": {"global_batch": 16},
            KEY: {"method": "Method", "encoder": {"image_layers": 2, "init_scale": 14.0}}
            | ({} if numbers_step is None else {"numbers_step": numbers_step}),
            RUN: {"id": "old", "settings": SETTINGS, "shards": "2 shards", "config": "a: 1\n", "history": []} | run,
        },
        folder / f"{name}.ckpt",
    )
    return folder / f"{name}.ckpt"


def note(folder: RunFolder, **record) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_record({"id": "old", "name": folder.name, "origin": None, "settings": SETTINGS, "job": ""} | record)


def wanted(folder: RunFolder, checkpoint: str | None = "last", **changes) -> RunPlan:
    given = {
        "resume": Resume(), "settings": SETTINGS, "limits": Limits(4, -1), "validates": True,
        "method": "Method", "shapes": SHAPES, "sizes": {"image_layers": 2, "init_scale": 14.0},
        "global_batch": 16,
    }  # fmt: skip
    return RunPlan(folder=folder, checkpoint=checkpoint, **(given | changes))


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs", "a")


def test_a_first_start(folder):
    found = decide(wanted(folder))
    assert (found.checkpoint, found.aside, found.step, found.history) == (None, None, 0, [])
    assert len(found.run) == 12


def test_it_goes_on(folder):
    note(folder)
    last = write(folder.checkpoints)
    found = decide(wanted(folder))
    assert (found.checkpoint, found.run, found.step, found.finished, found.changed) == (last, "old", 6, None, [])


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(2, -1), "finished, 2 epochs (6 steps) of trainer.max_epochs 2; --trainer.max_epochs 3 or more"),
        (Limits(1, -1), "of trainer.max_epochs 1; --trainer.max_epochs 3 or more"),
        (Limits(-1, 6), "finished, 6 steps of trainer.max_steps 6; --trainer.max_steps 7 or more"),
        (Limits(-1, 7), None),
        (Limits(3, 7), None),
    ],
)
def test_when_it_is_finished(folder, limits, says):
    note(folder)
    write(folder.checkpoints)
    found = decide(wanted(folder, limits=limits)).finished
    assert found is None if says is None else says in found


@pytest.mark.parametrize(
    ("measured", "validates", "says"),
    [
        (None, True, "; nothing was measured, `lightning validate --config {}/a/config.yaml` measures step 6"),
        (4, True, "; its numbers are of step 4, `lightning validate --config {}/a/config.yaml` measures step 6"),
        (6, True, "--name OTHER apart"),
        (None, False, "--name OTHER apart"),
    ],
)
def test_a_finished_run_tells_whether_its_last_step_was_measured(folder, measured, validates, says):
    note(folder)
    write(folder.checkpoints, numbers_step=measured)
    found = decide(wanted(folder, limits=Limits(-1, 6), validates=validates)).finished
    assert found is not None
    assert found.endswith(says.format(folder.path.parent))


@pytest.mark.parametrize(
    ("change", "accept", "refused"),
    [
        ({"model.beta": 0.1}, False, "model.beta: 0.5 → 0.1"),
        ({"model.beta": 0.1}, ["model.optim"], "model.beta: 0.5 → 0.1"),
        ({"model.beta": 0.1}, ["model.beta"], None),
        ({"model.beta": 0.1}, True, None),
        ({"data.batch_size": 4, "data.global_batch_size": 16}, False, None),  # 16 over all ranks, as before
        ({"trainer.max_epochs": 9}, False, None),
    ],
)
def test_other_settings(folder, change, accept, refused):
    note(folder)
    write(folder.checkpoints)
    asked = wanted(folder, settings=SETTINGS | change, resume=Resume(accept=accept))
    if refused is None:
        assert {one.name for one in decide(asked).changed} <= set(change)
    else:
        with pytest.raises(RunRefused, match=refused):
            decide(asked)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "Other"}, "last.ckpt is of Method, this run is of Other; --name OTHER trains apart"),
        ({"shapes": {"encoder.w": (2, 4)}}, "is of another size: encoder.w is 2x3 there and 2x4 here"),
        (
            {"shapes": {"encoder.w": (2, 4)}, "sizes": {"image_layers": 4}},
            "is of another size: model.encoder.image_layers: 2 → 4; --name OTHER",
        ),
        ({"shapes": {}}, "encoder.w is 2x3 there and missing here"),
        ({"shapes": SHAPES | {"new.w": ()}}, "new.w is missing there and a number here"),
    ],
)
def test_a_checkpoint_of_another_model(folder, change, says):
    """Its settings are not known: a program that called the trainer itself wrote it."""
    write(folder.checkpoints, settings=None)
    with pytest.raises(RunRefused) as found:
        decide(wanted(folder, **change))
    assert says in str(found.value)


def test_what_is_no_checkpoint(folder, tmp_path):
    for content in (b"", b"text", b"PK\x05\x06" + b"\0" * 18):
        (tmp_path / "odd.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"odd\.ckpt") as found:
            decide(wanted(folder, str(tmp_path / "odd.ckpt")))
        assert "weights_only" not in str(found.value)
    torch.save({"weights": 1}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="holds no run to go on with"):
        decide(wanted(folder, str(tmp_path / "odd.ckpt")))


@pytest.mark.parametrize("way", [{"checkpoint": None}, {"resume": Resume(anew=True)}])
def test_anew(folder, way):
    note(folder)
    write(folder.checkpoints)
    folder.path.with_name("a.old-1").mkdir()
    found = decide(wanted(folder, **way))
    assert (found.checkpoint, found.aside) == (None, folder.path.with_name("a.old-2"))
    assert found.run != "old"


def test_a_job_that_starts_anew_and_is_queued_again_goes_on(folder, monkeypatch):
    note(folder, job="7")
    last = write(folder.checkpoints)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert decide(wanted(folder, None)).checkpoint == last
    assert decide(wanted(folder, resume=Resume(anew=True))).checkpoint == last
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert decide(wanted(folder, None)).checkpoint is None


def test_a_run_that_saved_nothing_yet(folder):
    """The same settings start it again; others are another run, and what it left is moved aside."""
    note(folder)
    found = decide(wanted(folder))
    assert (found.run, found.aside) == ("old", None)
    found = decide(wanted(folder, settings=SETTINGS | {"model.beta": 0.1}))
    assert found.run != "old"
    assert found.aside == folder.path.with_name("a.old-1")


def test_another_runs_checkpoint(folder, tmp_path):
    start = str(write(tmp_path / "other" / "checkpoints", step=3, epochs=1))
    found = decide(wanted(folder, start))
    assert (found.checkpoint, found.origin, found.aside) == (Path(start), start, None)
    assert found.run != "old"
    note(folder, id="mine", origin=start)  # begun, nothing saved yet: the same again
    found = decide(wanted(folder, start))
    assert (found.checkpoint, found.run, found.aside) == (Path(start), "mine", None)
    last = write(folder.checkpoints, id="mine")
    assert decide(wanted(folder, start)).checkpoint == last  # and from its own where it has one
    second = str(write(tmp_path / "second" / "checkpoints"))
    with pytest.raises(RunRefused, match="holds a run already: --name OTHER goes on from"):
        decide(wanted(folder, second))
    found = decide(wanted(folder, second, resume=Resume(anew=True)))
    assert found.aside == folder.path.with_name("a.old-1")


def test_its_own_best_moves_with_the_folder(folder):
    note(folder)
    write(folder.checkpoints)
    best = write(folder.checkpoints, "best", step=3)
    found = decide(wanted(folder, str(best), resume=Resume(anew=True)))
    assert found.checkpoint == folder.path.with_name("a.old-1") / "checkpoints" / "best.ckpt"


def test_the_data_is_known_by_its_shards(folder):
    note(folder)
    write(folder.checkpoints)
    moved = decide(wanted(folder, settings=SETTINGS | {"data.shards": "y.tar"}))
    assert check_shards(moved, False, "2 shards").changed == []
    for shards in ("3 shards", None):
        with pytest.raises(RunRefused, match=r"data\.shards: x\.tar → y\.tar"):
            check_shards(moved, False, shards)
    same = decide(wanted(folder))
    with pytest.raises(RunRefused, match=r"data\.shards: 2 shards → 3 shards"):
        check_shards(same, False, "3 shards")
    assert check_shards(same, True, "3 shards") == same


def test_damaged_ones(folder):
    note(folder)
    last = write(folder.checkpoints)
    before = write(folder.checkpoints, "last-0", step=4)
    last.write_bytes(b"cut")
    assert decide(wanted(folder)).checkpoint == before
    before.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"--resume\.anew true moves the run aside and starts anew"):
        decide(wanted(folder))
    assert decide(wanted(folder, resume=Resume(anew=True))).checkpoint is None


def test_the_record_is_read_whatever_it_holds(folder):
    folder.path.mkdir(parents=True)
    for text in ("", "[1]", "{", json.dumps({"id": "x"})):
        (folder.path / "run.json").write_text(text)
        assert isinstance(folder.record(), dict)
