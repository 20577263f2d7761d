"""Twenty faults during one training on two ranks: each restart goes on from the newest whole checkpoint, no sample is
lost or comes twice, the weights at the end are those of a run that nothing happened to, and no rank waits longer than
``tests.helpers.warm_ranks.TIMEOUT`` for one that is gone.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning import Callback

from tests.helpers.diary import diary, wait_for
from tests.helpers.tiny import write_shards
from tests.helpers.warm_ranks import TIMEOUT, WarmRanks
from tests.lightning_modules.killable_run import train

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]
TERM, KILL, FULL, WRITING, SHORT = KINDS = (
    "SIGTERM of one rank", "SIGKILL of one rank", "disk full", "killed while writing", "checkpoint cut short",
)  # fmt: skip
FAULTS, STEPS, EVERY, PAUSE = 20, 150, 3, 0.02
LOST = {TERM: 0, SHORT: 2 * EVERY}  # steps at most, to be done again; else those since the newest checkpoint


class DiskFull(Callback):
    """After so many steps no file may grow beyond 100 kB; a checkpoint is larger."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


class DiesWriting(Callback):
    """After so many steps the process is killed as soon as it has written a part of a checkpoint."""

    def __init__(self, after: int, share: float) -> None:
        self.left, self.share = after, share

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            os.fsync = self.dies

    def dies(self, descriptor):
        os.ftruncate(descriptor, int(os.fstat(descriptor).st_size * self.share))
        os.kill(os.getpid(), signal.SIGKILL)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint that loads; 0: there is none."""
    for name in ("last.ckpt", "last-0.ckpt"):
        try:
            return torch.load(folder / "checkpoints" / name, weights_only=True)["global_step"]
        except (OSError, RuntimeError):
            continue
    return 0


def cut(file: Path, rng: random.Random) -> None:
    if file.exists():
        os.truncate(file, rng.randrange(file.stat().st_size))


def steps_of(folder: Path) -> dict[int, list[str]]:
    """The samples of each step that both ranks have noted; the diaries make room for those of the next run."""
    files = [folder / f"{rank}.jsonl" for rank in range(2)]
    lines = [[line for line in file.read_text().splitlines(True) if line.endswith("\n")] for file in files]
    for file, mine in zip(files, lines, strict=True):
        file.write_text("".join(mine[: min(map(len, lines))]))
    found = {step["step"]: step["keys"] for step in diary(folder, 2)}
    for file in files:
        file.write_text("")
    return found


def fault(kind: str, warm: WarmRanks, folder: Path, shards: list[str], rng: random.Random) -> float:
    """Start, or go on, and be stopped by a fault; the seconds that the ranks took to end after it."""
    callbacks = {FULL: [DiskFull(rng.randint(1, 10))], WRITING: [DiesWriting(rng.randint(1, 10), rng.random())]}
    arguments = (str(folder), shards, PAUSE, STEPS, 0, EVERY, 1, callbacks.get(kind, ()))
    pids = warm.start(folder, train, 2, *arguments)
    wait_for(folder, 1, 300)
    if kind in (TERM, KILL, SHORT):
        wait_for(folder, rng.randint(1, 10), 300)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(rng.choice(pids), signal.SIGTERM if kind == TERM else signal.SIGKILL)
    began = time.monotonic()
    ended = warm.wait(pids, TIMEOUT.total_seconds() + 60)
    assert None not in ended, f"{kind}: a rank hangs"
    assert 0 not in ended, f"{kind}: training ended"
    if kind == SHORT:
        cut(folder / "checkpoints" / "last.ckpt", rng)
    return time.monotonic() - began


def test_twenty_faults(tmp_path, capsys):
    shards = [str(path) for path in write_shards(tmp_path / "shards", 24, 3)]
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    folder.mkdir()
    rng, counts, waits, saved, again = random.Random(0), Counter(), [], 0, 0
    kinds = [*KINDS] * (FAULTS // len(KINDS))
    rng.shuffle(kinds)
    with WarmRanks(__name__) as warm:
        assert warm.wait(warm.start(whole, train, 2, str(whole), shards, 0.0, STEPS, 0, EVERY), 300) == [0, 0]
        wanted = {step["step"]: step["keys"] for step in diary(whole, 2)}
        for kind in kinds:
            waits.append(fault(kind, warm, folder, shards, rng))
            seen = steps_of(folder)
            assert list(seen) == list(range(saved + 1, saved + 1 + len(seen))), f"{kind}: went on from another step"
            assert all(keys == wanted[step] for step, keys in seen.items())
            before, saved = saved, newest(folder)
            reached = max(seen, default=before)
            assert reached - LOST.get(kind, EVERY) <= saved <= reached, f"{kind}: {reached - saved} steps are lost"
            again += reached - saved
            counts[kind] += 1
        assert warm.wait(warm.start(folder, train, 2, str(folder), shards, 0.0, STEPS, 0, EVERY), 600) == [0, 0]
    assert steps_of(folder) == {step: keys for step, keys in wanted.items() if step > saved}
    ended, alone = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (folder, whole))
    for name, weight in alone["state_dict"].items():
        assert torch.equal(ended["state_dict"][name], weight), name
    with capsys.disabled():
        print(f"\n{FAULTS} faults over {STEPS} steps: {dict(counts)}")
        print(f"{again} steps done again; ranks ended within {max(waits):.1f} s (they give up after {TIMEOUT})")
