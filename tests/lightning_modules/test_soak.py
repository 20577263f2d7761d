"""Training for half an hour over storage and shards that have every fault: memory and open files stay flat.

``GRAINCLIP_SOAK_MINUTES`` says how long, 30 by default.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from lightning import Callback, Trainer, seed_everything

from datamodules import GrainSampling, GranularityData, SkipPolicy
from datamodules.shards.download import FetchPolicy
from lightning_modules import BetaClip, OptimConfig
from lightning_modules.callbacks import DataMonitor, LastCheckpoint
from tests.helpers.flaky_server import FlakyServer
from tests.helpers.tiny import make_sample, write_tar
from tests.helpers.tiny_run import TINY

MINUTES = float(os.environ.get("GRAINCLIP_SOAK_MINUTES", "30"))
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(60 * MINUTES + 900),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]
SHARDS, SAMPLES, BATCH, WORKERS = 8, 48, 8, 2
GROWTH = 16.0  # MB from the middle third of the run to the last


class Reading(NamedTuple):
    seconds: float
    main: float  # MB resident
    workers: float  # of all workers
    files: int  # open, of this process and its workers
    children: int


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def take(start: float) -> Reading:
    main = os.getpid()
    tasks = Path(f"/proc/{main}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    workers = [process.pid for process in multiprocessing.active_children() if process.name.startswith("Process-")]
    workers = [pid for pid in workers if pid is not None and pid in children]
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (main, *workers))
    return Reading(time.monotonic() - start, resident(main), sum(map(resident, workers)), files, len(children))


class Watch(Callback):
    """Looks once a second, in the midst of an epoch, where all workers are there."""

    def __init__(self) -> None:
        self.start, self.readings = time.monotonic(), []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        due = not self.readings or time.monotonic() - self.start - self.readings[-1].seconds >= 1
        if due and batch_idx > 10:
            self.readings.append(take(self.start))


def serve(folder: str, pipe) -> None:
    """In a process of its own: its sockets and threads are not the run's."""
    with FlakyServer(Path(folder), share=0.2, seed=1, hang=1.5) as server:
        pipe.send(server.url(""))
        pipe.recv()


def write_faulty(folder: Path) -> list[str]:
    """One tar is cut; in each there is a sample without image, one without text, one of broken JSON."""
    names = []
    for n in range(SHARDS):
        members = [make_sample(n * SAMPLES + i, key=f"{i:06d}").members() for i in range(SAMPLES)]
        members[n] = members[n] | {"jpg": b"no image"}
        members[10 + n].pop("json")
        members[20 + n] = members[20 + n] | {"json": b'{"caption": '}
        names.append(write_tar(folder / f"train-{n:03d}.tar", members).name)
    cut = folder / names[-1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return names


def test_memory_and_open_files_stay_flat(tmp_path, capsys):
    names = write_faulty(tmp_path)
    val = str(write_tar(tmp_path / "val.tar", (make_sample(n).members() | bad(n) for n in range(24))))
    context = multiprocessing.get_context("forkserver")
    pipe, theirs = context.Pipe()
    server = context.Process(target=serve, args=(str(tmp_path), theirs))
    server.start()
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        watch, monitor = Watch(), DataMonitor()
        address = pipe.recv()
        steps = run([address + name for name in names], val, tmp_path, watch, monitor)
    finally:
        pipe.send(None)
        server.join(10)
    counts = Counter(monitor.own_counts)
    for reason in ("image", "json", "json missing", "shard"):
        assert counts[f"skipped/{reason}"] > 0, counts
    middle, last = thirds(watch.readings)
    with capsys.disabled():
        print(f"\n{MINUTES:g} minutes, {steps} steps; {dict(counts)}")
        for name in ("main", "workers"):
            values = [statistics.median(getattr(r, name) for r in part) for part in (middle, last)]
            print(f"{name}: {values[0]:.1f} MB, then {values[1]:.1f} MB resident")
        for name in ("files", "children"):
            print(f"{name}: {[(min(v), max(v)) for v in ([getattr(r, name) for r in p] for p in (middle, last))]}")
    for name in ("main", "workers"):
        before, after = (statistics.median(getattr(r, name) for r in part) for part in (middle, last))
        assert after - before < GROWTH, name
    for name, more in {"files": 64, "children": 2}.items():  # transfers and tensors between processes come and go
        before, after = (min(getattr(r, name) for r in part) for part in (middle, last))
        assert after <= before + more, name


def bad(number: int) -> dict[str, bytes]:
    return {"jpg": b"no image"} if number == 5 else {}


def run(urls: list[str], val: str, folder: Path, *callbacks: Callback) -> int:
    seed_everything(3)
    data = GranularityData(
        urls, [val], batch_size=BATCH, val_batch_size=BATCH, num_workers=WORKERS, image_size=16, context_length=77,
        sampling=GrainSampling(2, 2), batches_per_epoch=200, shuffle_samples=64, skip=SkipPolicy(0.5),
        fetch=FetchPolicy(stall=1.0, patience=30.0, tries=3),
    )  # fmt: skip
    trainer = Trainer(
        max_steps=10_000_000, max_time={"seconds": int(60 * MINUTES)}, accelerator="cpu", devices=1, logger=False,
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[LastCheckpoint(f"{folder}/checkpoints", every_n_steps=100), *callbacks],
    )  # fmt: skip
    trainer.fit(BetaClip(encoder=TINY, optim=OptimConfig(lr=1e-3, warmup_steps=2)), data)
    return trainer.global_step


def thirds(readings: list[Reading]) -> tuple[list[Reading], list[Reading]]:
    """The middle and the last third of the run; in the first one memory is still filled."""
    assert len(readings) >= 30, f"only {len(readings)} readings: GRAINCLIP_SOAK_MINUTES must be larger"
    third = len(readings) // 3
    return readings[third : 2 * third], readings[2 * third :]
