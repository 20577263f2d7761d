"""The last and the best checkpoint that a run has are not lost to worse ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from lightning_modules import ClipFinetune, OptimConfig
from lightning_modules.callbacks import BestCheckpoint, LastCheckpoint, ResultTable
from lightning_modules.checkpoints.atomic_save import CheckpointError
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny_run import TINY, data, fit

pytestmark = pytest.mark.filterwarnings("ignore")


class Values(Callback):
    """A number after each epoch; and a table that ends at the best of them."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("value", self.values[trainer.current_epoch])


class Spoils(Callback):
    """Makes a weight infinite after step ``step``, on rank ``rank``. 0: never."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            next(pl_module.encoder.text_tower.parameters()).data.view(-1)[-1] = torch.inf


def train(folder: Path, *values: float, ckpt_path="last", monitor="value", spoils=0, rank=0, **settings) -> Trainer:
    """Three steps and a value for each epoch; checkpoints of one run lie in one folder."""
    seed_everything(3)
    place = str(folder / "checkpoints")
    callbacks = [Values(*values), Spoils(spoils, rank), LastCheckpoint(place), BestCheckpoint(place, monitor)]
    trainer = Trainer(
        max_epochs=len(values), default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[ResultTable(), *callbacks], **{"devices": 1, **settings},
    )  # fmt: skip
    trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-3)), data(folder), ckpt_path=ckpt_path)
    return trainer


def step_of_best(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]


def told_best(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best ")]
    return line


def test_a_moved_run_keeps_its_best(tmp_path, capsys):
    train(tmp_path / "a", 5, 6)
    os.rename(tmp_path / "a", tmp_path / "b")
    capsys.readouterr()
    train(tmp_path / "b", 5, 6, 4)
    file = tmp_path / "b" / "checkpoints" / "best.ckpt"
    assert told_best(capsys) == f"best value: 6 at step 6, kept in {file}"
    assert step_of_best(tmp_path / "b") == 6
    train(tmp_path / "b", 5, 6, 4, 7)
    assert step_of_best(tmp_path / "b") == 12
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("change", ["run", "monitor", "file"])
def test_the_best_of_something_else_is_not_carried_over(tmp_path, capsys, change):
    """Of another run, of another number, of a file that is gone: the first value that is measured now is the best."""
    train(tmp_path / "a", 5, 6)
    best = tmp_path / "a" / "checkpoints" / "best.ckpt"
    capsys.readouterr()
    if change == "run":
        other = str(tmp_path / "a" / "checkpoints" / "last.ckpt")
        train(tmp_path / "b", 5, 6, 4, ckpt_path=other)
        assert told_best(capsys) == f"best value: 4 at step 9, kept in {tmp_path / 'b' / 'checkpoints' / 'best.ckpt'}"
        assert step_of_best(tmp_path / "b") == 9
        assert step_of_best(tmp_path / "a") == 6
        return
    if change == "file":
        best.unlink()
    name = "value" if change == "file" else "val/caption/text_to_image/R@1"
    train(tmp_path / "a", 5, 6, 4, monitor=name)
    assert re.fullmatch(rf"best {name.removeprefix('val/')}: .* at step 9, kept in {best}", told_best(capsys))
    assert step_of_best(tmp_path / "a") == 9


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """And the run goes on from the last that were."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"infinite at step 2; nothing was saved; a lower model\.optim\.lr"):
        fit(tmp_path, Spoils(2), epochs=2, method=ClipFinetune)
    with pytest.raises(CheckpointError, match=f"NaN or infinite at step 4; {last} of step 3 is kept; a lower"):
        fit(tmp_path, Spoils(4), epochs=2, method=ClipFinetune)
    for name in ("last", "best"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 3
        assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    assert fit(tmp_path, epochs=2, method=ClipFinetune).global_step == 6


def test_weights_that_are_not_finite_are_not_validated(tmp_path):
    """Within an epoch, where nothing was to be saved yet."""
    with pytest.raises(CheckpointError, match="infinite at step 1; nothing was saved"):
        train(tmp_path, 5, spoils=1, val_check_interval=1)
    assert not list(tmp_path.glob("checkpoints/*"))


def on_rank(folder: str) -> str:
    rank = str(dist.get_rank())
    os.environ.update(LOCAL_RANK=rank, RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ.update(LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    strategy = DDPStrategy(process_group_backend="gloo")
    try:
        train(Path(folder), 5, spoils=1, rank=1, strategy=strategy, devices=2, max_steps=1)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_ranks_agree_that_weights_are_not_finite(tmp_path):
    """Also where they are on one rank only."""
    said = run_on_ranks(on_rank, 2, str(tmp_path))
    assert all(line.startswith("weights are NaN or infinite at step 1;") for line in said)
