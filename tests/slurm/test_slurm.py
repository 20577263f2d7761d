"""The job scripts under a real Slurm: two tasks on one node, warned, cancelled, killed; shards made by an array.

``make test-slurm`` runs it; it needs root and Debian's packages, and says so where it is skipped.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.diary import diary, wait_for
from tests.helpers.tiny import picture
from tests.slurm.cluster import Cluster, NotHere, install

pytestmark = [pytest.mark.long, pytest.mark.slurm, pytest.mark.timeout(1800)]
PATIENCE = float(os.environ.get("GRAINCLIP_PATIENCE", "600"))  # seconds for a job; on a busy machine more
STEPS = 16


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        install()
    except NotHere as reason:
        pytest.skip(f"no Slurm here: {reason}")
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def submit(cluster: Cluster, folder: Path, cache: Path, pause: float) -> str:
    """β-CLIP on 64 of the embedded scenes, eight steps an epoch, two tasks."""
    folder.mkdir(exist_ok=True)
    cluster.environment["GRAINCLIP_CACHE"] = str(cache)
    settings = {
        "data.scenes.train": 64, "data.scenes.dev": 16, "data.scenes.held_out": 16, "data.batch_size": 4,
        "data.val_batch_size": 8, "data.num_workers": 1, "trainer.max_epochs": STEPS // 8,
        "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu", "runs": folder, "trainer.precision": "32-true",
        "trainer.enable_model_summary": "false", "trainer.callbacks+": "tests.helpers.diary.Diary",
        "trainer.callbacks.folder": folder, "trainer.callbacks.pause": pause, "trainer.log_every_n_steps": 1,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in settings.items()]
    script = ["configs/slurm/train.sbatch", "--config", "configs/beta_bce.yaml", "--config", "configs/recipes/ddp.yaml"]
    return cluster.sbatch(folder, "--ntasks-per-node=2", "--time=60", *script, *words)


def last(folder: Path) -> dict:
    """The checkpoint; it must be whole."""
    return torch.load(folder / "beta_bce" / "checkpoints" / "last.ckpt", weights_only=True)


def processes(folder: Path) -> dict[int, str]:
    """Those that belong to the run in ``folder``, by id: what they were called with."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has just ended
        if f"--trainer.callbacks.folder={folder}" in words:
            found[int(entry.name)] = words
    return found


def rank_of(folder: Path) -> int:
    """The id of one of the ranks: not of a process that loads for it, nor of srun."""
    python = {pid for pid, words in processes(folder).items() if words.startswith(sys.executable)}
    parent = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in python}
    return next(pid for pid in python if parent[pid] not in python)


def output(folder: Path) -> str:
    return "\n".join(file.read_text() for file in folder.glob("job-*.log"))


def check_gone(folder: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while left := processes(folder):
        assert time.monotonic() < end, left
        time.sleep(0.2)


def wait_for_job(cluster: Cluster, job: str, folder: Path, lines: int) -> None:
    """Until the run has made so many steps; the job's output where that does not come."""
    try:
        wait_for(folder, lines, PATIENCE)
    except TimeoutError:
        pytest.fail(f"{cluster.state(job)}\n{output(folder)}")


def test_a_warned_job_ends_like_one_that_was_left_alone(cluster, tmp_path):
    alone, warned = tmp_path / "alone", tmp_path / "warned"
    job = submit(cluster, alone, tmp_path / "cache", 0.0)
    other = submit(cluster, warned, tmp_path / "cache", 0.3)
    wait_for_job(cluster, other, warned, 3)
    cluster.run("scancel", "--signal=USR1", other)  # what --signal=USR1@180 sends three minutes before the limit
    assert cluster.wait(job, PATIENCE) == "COMPLETED", output(alone)
    assert cluster.wait(other, PATIENCE) == "COMPLETED", output(warned)
    assert cluster.state(other)["Restarts"] == "1"
    mine, theirs = diary(warned, 2), diary(alone, 2)
    assert len(theirs) == STEPS
    assert [step["keys"] for step in mine] == [step["keys"] for step in theirs]
    assert mine[-1]["loss"] == pytest.approx(theirs[-1]["loss"], rel=1e-6)
    for name, weight in last(alone)["state_dict"].items():
        torch.testing.assert_close(last(warned)["state_dict"][name], weight, rtol=0, atol=1e-6)
    check_gone(warned)


def test_a_cancelled_job_and_one_that_loses_a_rank(cluster, tmp_path):
    """Both leave a checkpoint, and no process."""
    cancelled, killed = tmp_path / "cancelled", tmp_path / "killed"
    job = submit(cluster, cancelled, tmp_path / "cache", 0.3)
    other = submit(cluster, killed, tmp_path / "cache", 0.3)
    wait_for_job(cluster, job, cancelled, 3)
    cluster.run("scancel", job)
    wait_for_job(cluster, other, killed, 10)  # an epoch and two steps
    os.kill(rank_of(killed), signal.SIGKILL)
    assert cluster.wait(job, PATIENCE) == "CANCELLED"
    assert cluster.wait(other, PATIENCE) == "FAILED"
    check_gone(cancelled)
    check_gone(killed)
    assert 3 <= last(cancelled)["global_step"] == len(diary(cancelled, 2))
    assert last(killed)["global_step"] == 8


def test_an_array_prepares_shards_in_parts(cluster, tmp_path, nltk_data):
    table, pictures = tmp_path / "table.csv", tmp_path / "pictures"
    pictures.mkdir()
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number in range(12):
            (pictures / f"{number}.jpg").write_bytes(picture(number))
            rows.writerow([f"{number}.jpg", f"A red cube number {number} lies here. It is beside a ball."])
    command = ["table", "--images", pictures, "--annotations", table, "--out", tmp_path / "shards"]
    words = [str(word) for word in (*command, "--samples_per_shard", 3)]
    job = cluster.sbatch(tmp_path, "--array=1-2", "configs/slurm/array.sbatch", *words)
    for part in (1, 2):
        assert cluster.wait(f"{job}_{part}", PATIENCE) == "COMPLETED", output(tmp_path)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 4
    assert (tmp_path / "shards" / "manifest.json").is_file()
