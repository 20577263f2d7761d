"""Stop anywhere, go on with other ranks and workers: Lightning's checkpoint brings back the very next samples."""

from __future__ import annotations

import os
import random
import shlex
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules import GrainSampling, GranularityData
from lightning_modules import ClipFinetune, OptimConfig
from lightning_modules.callbacks import LastCheckpoint
from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, CheckpointError
from tests.helpers.killing import kill_once_going
from tests.helpers.ranks import run_on_ranks
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import TINY

SAMPLES, BATCH, EPOCHS = 24, 4, 3


class Recorder(Callback):
    """Records the samples of every step; dies before step ``killed_at``."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at, self.keys, self.images = killed_at, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.killed_at:
            raise InterruptedError("killed")
        self.keys.append(batch.keys)
        self.images.append(batch.images)


def train(
    folder: str,
    shards: list[str],
    ranks: int,
    workers: int,
    killed_at: int | None = None,
    batch: int = BATCH,
    epochs: int = EPOCHS,
    resume: str | None = None,
) -> Recorder:
    """Trains on from ``folder``'s last checkpoint; a global batch has ``batch`` samples on any number of ranks."""
    recorder = Recorder(killed_at)
    data = GranularityData(
        shards, batch_size=batch // ranks, num_workers=workers, image_size=16, context_length=77,
        sampling=GrainSampling(1, 1), batches_per_epoch=SAMPLES // batch, shuffle_samples=4,
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=ranks, logger=False, enable_progress_bar=False,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto", use_distributed_sampler=False,
        enable_model_summary=False, callbacks=[LastCheckpoint(f"{folder}/checkpoints", every_n_steps=1), recorder],
    )  # fmt: skip
    last = Path(folder, "checkpoints", "last.ckpt")
    resume = resume or (str(last) if last.exists() else None)
    try:
        trainer.fit(ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-3)), data, ckpt_path=resume)
    except InterruptedError:
        assert killed_at is not None
    return recorder


def on_rank(folder: str, shards: list[str], workers: int, killed_at: int | None) -> tuple[list, list]:
    """One of two ranks, inside the process group that stands."""
    rank = torch.distributed.get_rank()
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ.update(LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
    recorder = train(folder, shards, 2, workers, killed_at)
    return recorder.keys, recorder.images


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return [str(path) for path in write_shards(tmp_path_factory.mktemp("shards"), SAMPLES, 3)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("remote", [False, True])
def test_five_stops(tmp_path, shards, remote):
    """A run killed five times, its workers changed between for local shards."""
    urls = [f"pipe:cat {shlex.quote(s)}" for s in shards] if remote else shards
    whole = train(str(tmp_path / "whole"), urls, 1, 0)
    assert len(whole.keys) == SAMPLES // BATCH * EPOCHS
    keys, images = [], []
    for stop, workers in [(1, 0), (4, 1), (6, 3), (11, 0), (17, 1), (None, 0)]:
        part = train(str(tmp_path / "parts"), urls, 1, 0 if remote else workers, stop)
        keys += part.keys
        images += part.images
    assert keys == whole.keys
    assert all(torch.equal(a, b) for a, b in zip(images, whole.images, strict=True))
    per_epoch = SAMPLES // BATCH
    for epoch in range(EPOCHS):
        seen = [key for batch in keys[epoch * per_epoch : (epoch + 1) * per_epoch] for key in batch]
        assert sorted(seen) == [f"{n:06d}" for n in range(SAMPLES)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stops", [(6, 7, 8), (5, 6, 7, 12, 13, 17, 18)])
def test_killed_right_after_saving(tmp_path, shards, stops, monkeypatch):
    """The state after kill -9: saved at the end of a batch, an epoch's last one too, and nothing done after."""
    save, keys = LastCheckpoint.save, []
    for stop in (*stops, None):

        def save_and_die(self, trainer, stop=stop):
            save(self, trainer)
            if trainer.global_step == stop:
                raise InterruptedError

        monkeypatch.setattr(LastCheckpoint, "save", save_and_die)
        keys += train(str(tmp_path), shards, 1, 0, stop).keys
    assert len(keys) == SAMPLES // BATCH * EPOCHS
    for epoch in range(EPOCHS):
        seen = [key for batch in keys[epoch * SAMPLES // BATCH :][: SAMPLES // BATCH] for key in batch]
        assert sorted(seen) == [f"{n:06d}" for n in range(SAMPLES)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_from_one_rank_to_two_and_back(tmp_path, shards):
    whole = train(str(tmp_path / "whole"), shards, 1, 0)
    parts = str(tmp_path / "parts")
    first = train(parts, shards, 1, 1, killed_at=4)
    two = run_on_ranks(on_rank, 2, parts, shards, 1, 9)
    last = train(parts, shards, 1, 0)
    joined = [[a + b for a, b in zip(two[0][0], two[1][0], strict=True)]]
    pictures = [torch.cat(pair) for pair in zip(two[0][1], two[1][1], strict=True)]
    assert first.keys + joined[0] + last.keys == whole.keys
    for a, b in zip([*first.images, *pictures, *last.images], whole.images, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("first", "second"), [(8, 4), (4, 12)])
def test_another_global_batch(tmp_path, shards, first, second):
    """The samples go on where they stopped, and an epoch ends after about as many of them."""
    seen = []
    for batch, stop in [(first, 24 // first * 3 // 2 - 1), (second, None)]:
        recorder = train(str(tmp_path), shards, 1, 0, stop, batch)
        seen += [key for keys in recorder.keys for key in keys]
    for epoch in range(2):
        assert sorted(seen[SAMPLES * epoch : SAMPLES * (epoch + 1)]) == [f"{n:06d}" for n in range(SAMPLES)]
    assert abs(len(seen) - SAMPLES * EPOCHS) <= max(first, second)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_cut_short_is_passed_over(tmp_path, shards):
    """By a disk or a copy, after it was written: the run goes on from the one before."""
    whole = train(str(tmp_path / "whole"), shards, 1, 0)
    parts = tmp_path / "parts"
    first = train(str(parts), shards, 1, 0, killed_at=5)
    last = parts / "checkpoints" / "last.ckpt"
    os.truncate(last, last.stat().st_size - 100)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is cut short or damaged; --ckpt_path takes another"):
        AtomicCheckpointIO().load_checkpoint(last)
    on = train(str(parts), shards, 1, 0, killed_at=8, resume="last")
    assert first.keys[:4] + on.keys == whole.keys[:8]
    for file in last.parent.iterdir():
        file.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is cut short or damaged, and so is the one before it"):
        train(str(parts), shards, 1, 0, resume="last")


def train_alone(folder: str, shards: list[str], epochs: int) -> None:
    torch.set_num_threads(1)
    train(folder, shards, 1, 0, epochs=epochs)


def epochs_done(state: dict) -> int:
    """Epochs whose validation is in."""
    return state["loops"]["fit_loop"]["epoch_progress"]["total"]["processed"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_at_random_moments(tmp_path, shards):
    """Ten times kill -9 amid steps and checkpoints: the newest checkpoint always loads, the run ends as it should."""
    last, rng, kills, epochs = tmp_path / "checkpoints" / "last.ckpt", random.Random(0), 0, 12
    reached = (0, 0)

    def written() -> int:
        return last.stat().st_mtime_ns if last.exists() else 0

    while kills < 10:
        before = written()
        arguments = (str(tmp_path), shards, epochs)
        assert kill_once_going(train_alone, arguments, lambda before=before: written() != before, 0.1, rng)
        kills += 1
        state = torch.load(last, weights_only=True)
        before_this, reached = reached, (state["global_step"], epochs_done(state))
        assert reached > before_this  # a validation that was cut off is made up for, and saved under the same step
        assert state["GranularityData"] == {"samples": state["global_step"] * BATCH, "global_batch": BATCH}
    train(str(tmp_path), shards, 1, 0, epochs=epochs)
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == SAMPLES // BATCH * epochs
    assert state["GranularityData"] == {"samples": SAMPLES * epochs, "global_batch": BATCH}
