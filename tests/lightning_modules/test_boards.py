"""One interface, several loggers at once: each shows what it can, in its own files, and what it cannot is told once."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.boards.all_boards import Boards
from lightning_modules.boards.board import EmbeddingTable
from lightning_modules.cli.main import main, with_logger_folders
from tests.bad_inputs.stage import write_config
from tests.helpers.tiny import picture, write_shards

ROOT = Path(__file__).resolve().parents[2]
PNG = picture(1, format="PNG")
VALUES = np.array([0.0, 0.5, 0.5, 1.0], dtype=np.float32)
TABLE = EmbeddingTable(
    torch.eye(3),
    ("modality", "grain", "text or key"),
    [("text", "caption", f"a | {n}") for n in range(3)],
    torch.ones(3, 3, 4, 4),
)
KINDS = ("images", "histograms", "tables", "embeddings")


class Numbers(Logger):
    """Takes numbers only."""

    name, version = "numbers", "0"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def log_metrics(self, metrics, step=None) -> None:
        pass

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        self.settings = dict(params)


class Images(Numbers):
    """Takes images too, as the loggers of some other packages do."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = []

    def log_image(self, key, images, step=None) -> None:
        self.shown.append((key, images[0].size, step))


def show_all(boards: Boards) -> None:
    boards.begin({"method": "CLIP", "beta": 0.5}, {})
    boards.image("attention/sample 1", PNG, 7)
    boards.histogram("similarities/caption", VALUES, 7)
    boards.table("results", ("name", "value"), [("caption/R@1", 0.25), ("a|b", 1.0)], 8)
    boards.embeddings("embeddings", TABLE, 8)
    boards.end()


def test_several_at_once_and_what_is_missing_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("grainclip"), "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, "grainclip")
    board, files, images, numbers = TensorBoardLogger(tmp_path, "", ""), CSVLogger(tmp_path, "csv"), Images(), Numbers()
    boards = Boards([board, files, images, numbers, DummyLogger()], KINDS)
    for _ in range(2):
        show_all(boards)
    assert [record.getMessage() for record in caplog.records if "cannot show" in record.getMessage()] == [
        "Images: no histograms and no tables and no embeddings, it cannot show them",
        "Numbers: no images and no histograms and no tables and no embeddings, it cannot show them",
    ]
    assert images.shown == [("attention/sample 1", (48, 40), 7)] * 2
    assert numbers.settings == images.settings == {"method": "CLIP", "beta": 0.5}
    board.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    assert tags["images"] == ["attention/sample 1"]
    assert tags["histograms"] == ["similarities/caption"]
    text = events.Tensors("results/text_summary")[-1]
    assert (text.step, text.tensor_proto.string_val[0]) == (
        8, b"| name | value |\n| --- | --- |\n| caption/R@1 | 0.25 |\n| a\\|b | 1.0 |",
    )  # fmt: skip
    assert list(tmp_path.glob("**/metadata.tsv"))


def test_files_beside_a_csv_logger(tmp_path):
    run_logger = CSVLogger(tmp_path, "csv")
    show_all(Boards([run_logger], KINDS))
    place = Path(run_logger.log_dir)
    assert Image.open(io.BytesIO((place / "images/attention/sample_1/step-00000007.png").read_bytes())).size == (48, 40)
    rows = list(csv.DictReader((place / "histograms/similarities/caption/step-00000007.csv").open()))
    assert sum(int(row["count"]) for row in rows) == 4
    assert float(rows[0]["low"]) == 0.0
    assert float(rows[-1]["high"]) == 1.0
    table = list(csv.reader((place / "tables/results/step-00000008.csv").open()))
    assert table == [["name", "value"], ["caption/R@1", "0.25"], ["a|b", "1.0"]]
    assert np.array_equal(np.load(place / "embeddings/embeddings/step-00000008.npy"), np.eye(3))
    words = list(csv.reader((place / "embeddings/embeddings/step-00000008.csv").open()))
    assert words[1] == ["text", "caption", "a | 0"]


def test_none_shows_anything_in_a_trial_run():
    assert not Boards([DummyLogger()], KINDS)
    assert not Boards([]).show("images")
    assert not Boards([Numbers()]).show("images")


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'grainclip[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store of files needs no SQLAlchemy
    place = str(tmp_path / "a")
    run_logger = MLFlowLogger("grainclip", save_dir=str(tmp_path / "mlruns"), artifact_location=place)
    boards = Boards([run_logger], KINDS)
    assert not boards.show("histograms")
    show_all(boards)
    files = {str(file.relative_to(tmp_path / "a")).split("/", 2)[2] for file in (tmp_path / "a").rglob("*.json")}
    assert files == {"tables/results/step-00000008.json", "embeddings/embeddings/step-00000008.json"}
    assert list((tmp_path / "a").rglob("*.png"))
    assert run_logger.experiment.get_run(run_logger.run_id).data.params == {"method": "CLIP", "beta": "0.5"}


FIT = (
    *("-m", "lightning_modules", "fit", "--config", "tiny.yaml", "--name", "mine", "--ckpt_path", "last"),
    *("--trainer.logger+=WandbLogger", "--trainer.logger+=CSVLogger", "--images.every_n_steps", "100"),
    *("--images.samples", "1", "--diagnostics.every_n_steps", "100"),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_weights_and_biases_offline(tmp_path):
    """A run of two starts: one id, everything in the run's folder, images, table and settings in both parts."""
    pytest.importorskip("wandb", reason="needs wandb: pip install 'grainclip[wandb]'")
    write_shards(tmp_path / "shards", 24, 2)
    write_config(tmp_path / "tiny.yaml")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}
    environment |= {"HOME": str(tmp_path / "home")}
    for steps in ("1", "2"):
        command = [sys.executable, *FIT, "--trainer.max_epochs", steps]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "mine"
    parts = sorted((run / "wandb").glob("offline-run-*"))
    record = json.loads((run / "run.json").read_text())
    assert len(parts) == 2
    assert {part.name.rpartition("-")[2] for part in parts} == {record["id"]}
    for part in parts:
        media = [file.relative_to(part / "files/media") for file in (part / "files/media").rglob("*") if file.is_file()]
        assert any(file.parts[:2] == ("images", "attention") for file in media)
        assert any(file.parts[0] == "table" and file.name.startswith("results") for file in media)
        assert any(file.parts[0] == "table" and file.name.startswith("embeddings") for file in media)
    (table,) = (parts[1] / "files/media/table").glob("results*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["name", "value"]
    assert "caption/text_to_image/R@1" in [row[0] for row in content["data"]]
    assert (run / "config.yaml").is_file()
    assert (run / "checkpoints/last.ckpt").is_file()
    assert not [file for file in tmp_path.iterdir() if file.name in ("wandb", "lightning_logs")]
    assert len(list((run / "csv").glob("version_*/images/attention"))) == 2


def test_a_logger_whose_package_is_missing_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", _Missing())
    write_shards(tmp_path / "shards", 24, 2)
    write_config(tmp_path / "tiny.yaml")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", "--config", "tiny.yaml", "--trainer.logger", "WandbLogger"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "trainer.logger: WandbLogger needs wandb: pip install 'grainclip[wandb]'" in line
    assert not [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]


def test_a_logger_that_does_not_start_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install 'grainclip[wandb]'")

    def nobody(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(wandb, "init", nobody)
    write_shards(tmp_path / "shards", 24, 2)
    write_config(tmp_path / "tiny.yaml")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["fit", "--config", "tiny.yaml", "--name", "mine", "--trainer.logger", "WandbLogger"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "trainer.logger: WandbLogger does not start: No API key configured. Use `wandb login` to log in." in line
    assert main(["fit", "--config", "tiny.yaml", "--name", "mine", "--trainer.max_epochs", "1"]) == 0


class _Missing:
    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "No module named 'wandb'. HINT: run `pip install -U 'wandb>=0.12.10'`"


def test_loggers_that_ask_for_a_folder_get_one_on_the_command_line():
    given = ["fit", "--trainer.logger+=CSVLogger", "--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger"]
    folder = "--trainer.logger.save_dir=runs"
    assert with_logger_folders(given) == [*given[:2], folder, *given[2:], folder]
    for enough in (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir", "x"], ["--trainer.logger+=WandbLogger"]):
        assert with_logger_folders(enough) == enough
