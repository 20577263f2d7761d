"""Any logger, whatever it is told, writes into the run's folder, and goes on there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_modules.runs.loggers import loggers


class WandbLogger:
    """With the arguments of Lightning's, which needs its package."""

    def __init__(self, name=None, save_dir=".", version=None, offline=False, dir=None, id=None, project=None, **kwargs):
        self.given = {"name": name, "save_dir": save_dir, "version": version, "dir": dir, "id": id, "project": project}


class NowhereLogger:
    def __init__(self, url):
        self.url = url


def asked(kind: str, **init_args) -> Namespace:
    module = (
        __name__
        if kind in globals() and kind not in ("CSVLogger", "TensorBoardLogger")
        else "lightning.pytorch.loggers"
    )
    return Namespace(class_path=f"{module}.{kind}", init_args=Namespace(**init_args))


def made(wanted, folder: Path):
    return loggers(wanted, folder, "mine", "0123")


@pytest.mark.parametrize("wanted", [None, True])
def test_tensorboard_by_itself(tmp_path, wanted):
    (one,) = made(wanted, tmp_path / "mine")
    assert isinstance(one, TensorBoardLogger)
    assert Path(one.log_dir) == tmp_path / "mine"


def test_none():
    assert made(False, Path("x")) == []


def test_several(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", True)
    wanted = [
        asked("TensorBoardLogger", save_dir="runs", name="other", version="3"),
        asked("CSVLogger", save_dir="elsewhere"),
        asked("WandbLogger", save_dir="wb", project="p", version="7", dir="wb"),
        asked("NowhereLogger", url="https://example.org"),
    ]
    board, csv, wandb, nowhere = made(wanted, tmp_path / "mine")
    assert Path(board.log_dir) == tmp_path / "mine"
    assert isinstance(csv, CSVLogger)
    assert Path(csv.log_dir) == tmp_path / "mine" / "csv" / "version_0"
    Path(csv.log_dir).mkdir(parents=True)
    assert Path(made(wanted, tmp_path / "mine")[1].log_dir).name == "version_1"  # an earlier start's stays
    place = str(tmp_path / "mine")
    assert wandb.given == {
        "name": "mine", "save_dir": place, "version": None, "dir": None, "id": "0123", "project": "p",
    }  # fmt: skip
    assert nowhere.url == "https://example.org"
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("trainer.logger.save_dir elsewhere: a run's logs lie in its folder")
    assert any("save_dir wb" in line for line in said)
