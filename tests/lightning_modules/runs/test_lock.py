"""The lock of a run's folder: one process at a time, dead ones are recognised, the living are named."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, is_whole
from lightning_modules.runs import lock
from lightning_modules.runs.keeper import _move_aside
from lightning_modules.runs.lock import NAME, Holder, RunLock, RunTaken, holder


def write(folder, other: Holder) -> None:
    (folder / NAME).write_text(json.dumps(asdict(other)))


def test_it_is_taken_once_and_given_back(tmp_path):
    mine, other = RunLock(tmp_path, "a"), RunLock(tmp_path, "b")
    assert mine.take() is None
    assert holder(tmp_path / NAME) == mine.me
    assert mine.me.pid == os.getpid()
    with pytest.raises(
        RunTaken, match=f"is being written by process {os.getpid()} on {mine.me.host} since .*--name OTHER"
    ):
        other.take()
    other.release()  # what it does not hold stays
    assert (tmp_path / NAME).exists()
    mine.release()
    assert not list(tmp_path.iterdir())
    assert other.take() is None


def refuses(*names):
    """``os.link`` on a disk that knows none."""
    raise PermissionError(1, "Operation not permitted")


def test_a_disk_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuses)
    assert RunLock(tmp_path, "a").take() is None
    with pytest.raises(RunTaken):
        RunLock(tmp_path, "b").take()


@pytest.mark.parametrize("links", [True, False])
def test_the_lock_stays_with_the_name_of_a_folder_that_is_moved_aside(tmp_path, monkeypatch, links):
    folder, aside = tmp_path / "run", tmp_path / "run.old-1"
    folder.mkdir()
    (folder / "config.yaml").touch()
    mine = RunLock(folder, "a")
    mine.take()
    if not links:
        monkeypatch.setattr(os, "link", refuses)
    _move_aside(folder, aside)
    assert holder(folder / NAME) == mine.me
    assert [file.name for file in aside.iterdir()] == ["config.yaml"]
    mine.release()
    assert not list(folder.iterdir())


HERE = Holder.this_process("old")


@pytest.mark.parametrize(
    ("other", "silent", "why"),
    [
        (HERE, 1e9, None),  # this very process is there, however long it was silent
        (replace(HERE, started="1"), 0, "has ended"),  # another process has its number now
        (replace(HERE, pid=4194304 + 7), 0, "has ended"),
        (replace(HERE, boot="before"), 0, "was started anew"),
        (replace(HERE, host="far"), 599, None),
        (replace(HERE, host="far"), 601, "nothing was heard of far for 10 minutes"),
        (replace(HERE, namespace="pid:[1]"), 0, None),  # a container of the same name
        (replace(HERE, job="7", restarts=0), 1e9, None),  # the start before this one is still dying
        (replace(HERE, host="far", job="7", restarts=0), 0, "start 0 of job 7 is over"),
        (replace(HERE, host="far", job="7", restarts=1), 0, None),  # two steps of one job
        (replace(HERE, host="far", job="8", restarts=0), 0, None),
    ],
)
def test_the_dead_are_recognised(tmp_path, other, silent, why):
    me = replace(HERE, job="7", restarts=1)
    found = other.gone(silent, me)
    assert (why is None and found is None) or why in str(found)


def test_a_dead_runs_lock_is_removed_and_told(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(tmp_path, replace(HERE, pid=ended.pid))
    told = RunLock(tmp_path, "new").take()
    assert told is not None
    assert f"left by a dead run (process {ended.pid} on {HERE.host} has ended); removed" in told
    assert holder(tmp_path / NAME).run == "new"


def test_an_unreaped_process_is_dead(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = lock.process_start(ended.pid)
    while lock.process_start(ended.pid):
        time.sleep(0.01)
    other = replace(HERE, pid=ended.pid, started=started)
    assert "has ended" in str(other.gone(0, HERE))
    ended.wait()


def test_far_hosts_are_judged_by_the_disks_clock(tmp_path):
    write(tmp_path, replace(HERE, host="far"))
    with pytest.raises(RunTaken, match="on far since"):
        RunLock(tmp_path, "new").take()
    before = time.time() - lock.SILENCE - 60
    os.utime(tmp_path / NAME, (before, before))
    assert "nothing was heard of far" in str(RunLock(tmp_path, "new").take())


def test_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    mine = RunLock(tmp_path, "a")
    mine.take()
    os.utime(tmp_path / NAME, (1, 1))
    end = time.monotonic() + 30
    while (tmp_path / NAME).stat().st_mtime == 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    mine.release()


def contend(folder, barrier, results):
    taken = RunLock(folder, str(os.getpid()))
    barrier.wait()
    try:
        taken.take()
        results.put(True)
    except RunTaken:
        results.put(False)
    barrier.wait()  # it is held until all have tried


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path, stale):
    context = multiprocessing.get_context("forkserver")
    for _ in range(5):
        if stale:
            write(tmp_path, replace(HERE, boot="before"))
        barrier, results = context.Barrier(4), context.Queue()
        processes = [context.Process(target=contend, args=(tmp_path, barrier, results)) for _ in range(4)]
        for one in processes:
            one.start()
        taken = sum(results.get() for _ in processes)
        for one in processes:
            one.join()
        assert taken == 1
        (tmp_path / NAME).unlink(missing_ok=True)


def save_often(folder, number, count):
    writer = AtomicCheckpointIO()
    for _ in range(count):
        writer.save_checkpoint({"run": number, "weights": [number] * 20000}, folder / "last.ckpt")


def test_two_writers_never_mix_a_checkpoint(tmp_path):
    """Without the lock, from Python: the file is one process's, whole, at any moment."""
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=save_often, args=(tmp_path, number, 30)) for number in (1, 2)]
    for one in processes:
        one.start()
    last, looks = tmp_path / "last.ckpt", 0
    import torch

    while any(one.is_alive() for one in processes):
        if last.exists():
            saved = torch.load(last, weights_only=True)
            assert set(saved["weights"]) == {saved["run"]}
            assert is_whole(last)
            looks += 1
    assert [one.exitcode for one in processes] == [0, 0]
    assert looks > 5
    assert not list(tmp_path.glob(".*"))
