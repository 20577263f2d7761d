"""Real signals to a run of two ranks: it saves between two batches, ends, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_modules import ClipFinetune
from lightning_modules.callbacks import Preemption
from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, CheckpointError
from tests.helpers.diary import diary, wait_for
from tests.helpers.tiny import write_shards
from tests.helpers.tiny_run import TINY
from tests.helpers.warm_ranks import WarmRanks
from tests.lightning_modules.killable_run import STEPS, train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return [str(path) for path in write_shards(tmp_path_factory.mktemp("shards"), 24, 3)]


@pytest.fixture(scope="module")
def warm():
    with WarmRanks("tests.lightning_modules.killable_run") as ranks:
        yield ranks


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards) -> Path:
    """The run that nobody stops, on one rank."""
    folder = tmp_path_factory.mktemp("whole")
    train(str(folder), shards)
    return folder


def check_like(folder: Path, whole: Path) -> None:
    """Every step once, in order, with the samples and the losses of the uninterrupted run; its weights at the end."""
    mine, theirs = diary(folder, 2), diary(whole, 1)
    assert [(step["step"], step["keys"]) for step in mine] == [(step["step"], step["keys"]) for step in theirs]
    assert [step["loss"] for step in mine] == pytest.approx([step["loss"] for step in theirs], rel=1e-5)
    ended, wanted = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (folder, whole))
    assert ended["global_step"] == wanted["global_step"] == STEPS
    for name, weight in wanted["state_dict"].items():
        torch.testing.assert_close(ended["state_dict"][name], weight, rtol=0, atol=1e-5)


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> Path:
    """A stand-in that notes how it was called, in a job of Slurm's."""
    program, called = tmp_path / "bin" / "scontrol", tmp_path / "called"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return called


@pytest.mark.slow
def test_signals_to_one_of_two_ranks(tmp_path, shards, whole, warm, scontrol):
    """One signal to rank 1, later another to rank 0, later to both: every rank stops at the same step."""
    settings = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "77"}
    for lines, number, hit, status in [
        (2, signal.SIGUSR1, [1], 0),
        (4, signal.SIGTERM, [0], 143),
        (7, signal.SIGUSR1, [0, 1], 0),
    ]:
        pids = warm.start(tmp_path, run, 2, settings, str(tmp_path), shards, 0.1)
        wait_for(tmp_path, lines)
        for rank in hit:
            os.kill(pids[rank], number)
        assert warm.wait(pids, 120) == [status, status]
        steps = len(diary(tmp_path, 2))
        assert lines <= steps <= lines + 3
        assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == steps
    assert warm.wait(warm.start(tmp_path, run, 2, settings, str(tmp_path), shards), 120) == [0, 0]
    check_like(tmp_path, whole)
    assert scontrol.read_text().splitlines() == ["requeue 77"] * 2


def run(settings, *args):
    os.environ.update(settings)
    train(*args)


def test_a_signal_while_gradients_accumulate(tmp_path, shards, warm):
    """It waits for the optimiser's step: none of the gradients is lost."""
    pids = warm.start(tmp_path, train, 2, str(tmp_path), shards, 0.1, 6, 0, 1000, 3)
    wait_for(tmp_path, 1)
    os.kill(pids[0], signal.SIGTERM)
    assert warm.wait(pids, 120) == [143, 143]
    steps = [step["step"] for step in diary(tmp_path, 2)]
    assert steps in ([0, 0, 1], [0, 0, 1, 1, 2])  # an epoch of 5 batches ends with a step of two
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["GranularityData"]["samples"] == 4 * len(steps)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers by Linux's /proc")
def test_workers_do_not_die_of_the_jobs_signal(tmp_path, shards, warm):
    """Slurm signals all processes of a job; loader workers must last until the checkpoint is there."""
    pids = warm.start(tmp_path, train, 2, str(tmp_path), shards, 0.1, 40, 1)
    wait_for(tmp_path, 2)
    workers = [int(c) for pid in pids for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert workers
    for pid in [*workers, *pids]:
        os.kill(pid, signal.SIGTERM)
    assert warm.wait(pids, 120) == [143, 143]
    assert (tmp_path / "checkpoints/last.ckpt").is_file()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they look every five seconds for their parent
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_signal_after_training_does_what_it_always_does(tmp_path, shards):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        train(str(tmp_path), shards, steps=1)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_it_needs_a_checkpoint_to_go_on_from():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="Preemption needs the callback LastCheckpoint"):
        Preemption().setup(trainer, ClipFinetune(encoder=TINY), "fit")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop": ("USR1",)}, "must be names like SIGUSR1, got 'USR1'"),
        ({"stop": ("SIGUSR1",)}, r"must stand in preemption.requeue or in .stop, got \['SIGUSR1'\] in both"),
    ],
)
def test_its_signals_are_checked(settings, says):
    with pytest.raises(ValueError, match=says):
        Preemption(**settings)


def test_a_checkpoint_replaces_the_one_before_in_one_go(tmp_path, monkeypatch):
    file, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"number": 1}, file)

    def breaks(checkpoint, out):
        out.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(CheckpointError, match=r"last\.ckpt could not be written: .*No space left.*is whole"):
        writer.save_checkpoint({"number": 2}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(file, weights_only=True) == {"number": 1}
    monkeypatch.undo()
    for number in (2, 3):
        writer.save_checkpoint({"number": number}, file)
    before = tmp_path / "last-0.ckpt"
    assert [torch.load(path, weights_only=True)["number"] for path in (file, before)] == [3, 2]
    file.write_bytes(b"cut")
    writer.save_checkpoint({"number": 4}, file)  # what is cut short does not take the place of what is whole
    assert [torch.load(path, weights_only=True)["number"] for path in (file, before)] == [4, 2]
    best = tmp_path / "best.ckpt"
    for number in (1, 2):
        writer.save_checkpoint({"number": number}, best)
    assert sorted(tmp_path.iterdir()) == [best, before, file]
