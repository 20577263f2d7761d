"""The demo: two runs side by side, one table of what was measured, one image; a run that fails is told."""

from __future__ import annotations

import os
import re

import pytest
from PIL import Image

from datamodules import SceneSet
from lightning_modules.cli import demo
from lightning_modules.cli.main import main

ROW = re.compile(r"│ (before|CLIP, by the same steps|GrainClip) +│(.*)│")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAINCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "SCENES", SceneSet(train=64, dev=8, held_out=16))
    monkeypatch.setattr(demo, "STEPS", 2)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_before_and_after_are_measured(capsys, tmp_path, monkeypatch, recwarn):
    assert main(["demo", "--runs", "out"]) == 0
    assert not [warning for warning in recwarn if "LeafSpec" in str(warning.message)]
    printed = capsys.readouterr().out
    rows = dict(ROW.findall(printed))
    assert set(rows) == {"before", "CLIP, by the same steps", "GrainClip"}
    assert all(len(re.findall(r"\d+\.\d", row)) == len(demo.COLUMNS) for row in rows.values())
    assert "out/demo_grainclip/where.png" in printed.replace("\n", "")
    assert min(Image.open("out/demo_grainclip/where.png").size) > 100
    assert max(map(len, printed.splitlines())) <= 100
    monkeypatch.setattr(demo, "_watch", lambda started, runs: [process.wait() for process in started.values()])
    assert main(["demo", "--runs", "out"]) == 0  # both runs are finished: it only measures again
    assert dict(ROW.findall(capsys.readouterr().out)) == rows


def test_a_run_that_fails_is_told_in_one_line(capsys, monkeypatch):
    monkeypatch.setitem(demo.RUNS, "demo_clip", "configs/nothing.yaml")
    with pytest.raises(SystemExit):
        main(["demo", "--runs", "out"])
    assert re.search(r"training demo_clip failed: .*nothing\.yaml.*; see out/demo_clip\.log", capsys.readouterr().err)


def test_a_folder_that_cannot_be_written_to_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--runs", os.devnull])
    assert "--runs must be a folder that can be written to" in capsys.readouterr().err
