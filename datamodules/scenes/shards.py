"""The embedded data set on disk: ordinary WebDataset tars in a cache folder, written once.

A folder is written under another name and renamed when it is whole. So a folder that exists is complete, and of two
processes that write it at once one wins and both succeed. Its name has all settings of its content. The tars' headers
have no time and no user: with the same Pillow version the bytes are the same on every machine.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import sys
import uuid
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

from datamodules.scenes.generate import ASKED, LABELS, SOURCE, sample
from datamodules.scenes.world import Split
from datamodules.shards.writer import MANIFEST, write_shard

VERSION = 3  # of the generator: raise it with any change of images or texts
SHARDS: dict[Split, int] = {"train": 16, "dev": 4, "held_out": 4}
PROCESSES = 2

log = logging.getLogger("grainclip")


class ScenesShards(NamedTuple):
    """The tars of each split, in order."""

    train: list[Path]
    dev: list[Path]
    held_out: list[Path]


class ShardTask(NamedTuple):
    """One shard to write: samples ``start`` to ``stop`` of a split."""

    path: Path
    split: Split
    start: int
    stop: int


def ensure_shards(
    folder: Path | None = None,
    *,
    train: int,
    dev: int = 512,
    held_out: int = 2048,
    seed: int = 0,
    size: int = 64,
    asked: int = ASKED,
) -> ScenesShards:
    """The shards of a data set of ``train``, ``dev`` and ``held_out`` samples; written first if they are not there.

    ``folder`` is the cache in which the data set gets a folder of its own; by default ``$GRAINCLIP_CACHE``, else
    ``~/.cache/grainclip``. ``size`` is the images' side in pixels, ``asked`` the number of things in a dev or held-out
    scene that questions are asked about. Beside the tars stands ``manifest.json`` with the samples and bytes of each.

    Raises ``ValueError`` where a number of samples is below 1, or as ``sample`` does.
    """
    samples: dict[Split, int] = {"train": train, "dev": dev, "held_out": held_out}
    for name, value in samples.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1 sample, got {value}")
    cache = default_cache() if folder is None else Path(folder)
    target = cache / f"scenes-v{VERSION}-seed{seed}-size{size}-train{train}-dev{dev}-heldout{held_out}-asked{asked}"
    if not (target / MANIFEST).is_file():
        log.info("Writing the embedded data set, %d + %d + %d scenes, to %s", train, dev, held_out, target)
        _write(
            target, [task for split, count in samples.items() for task in _shard_tasks(split, count)], seed, size, asked
        )
    return ScenesShards(*(sorted(target.glob(f"{split}-*.tar")) for split in samples))


def default_cache() -> Path:
    """``$GRAINCLIP_CACHE``, else ``~/.cache/grainclip``."""
    folder = os.environ.get("GRAINCLIP_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "grainclip"


def _shard_tasks(split: Split, samples: int) -> list[ShardTask]:
    """``samples`` split evenly, in order, over the split's tars; fewer tars where there are fewer samples."""
    shards = min(SHARDS[split], samples)
    edges = [samples * k // shards for k in range(shards + 1)]
    return [ShardTask(Path(f"{split}-{k:06d}.tar"), split, edges[k], edges[k + 1]) for k in range(shards)]


def _write(target: Path, shard_tasks: list[ShardTask], seed: int, size: int, asked: int) -> None:
    """Write all shards and the manifest into a folder beside ``target`` and rename it to ``target``."""
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    try:
        tasks = [(task._replace(path=temporary / task.path), seed, size, asked) for task in shard_tasks]
        sizes = _in_parallel(tasks)
        shards = {
            task.path.name: {"samples": task.stop - task.start, "bytes": size_in_bytes}
            for task, size_in_bytes in zip(shard_tasks, sizes, strict=True)
        }
        manifest = {"source": SOURCE, "version": VERSION, "seed": seed, "size": size, "asked": asked, "shards": shards}
        manifest["labels"] = sorted(LABELS)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _claim(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _claim(temporary: Path, target: Path) -> None:
    """Rename the finished folder, unless another process was first."""
    try:
        temporary.rename(target)
    except OSError as error:
        if not (target / MANIFEST).is_file():
            raise FileExistsError(
                f"{target} is in the way: it has no {MANIFEST}, so it is no data set; remove it"
            ) from error


def _in_parallel(tasks: list[tuple[ShardTask, int, int, int]]) -> list[int]:
    """``_write_shard`` for every task, in ``PROCESSES`` processes where the platform can fork safely.

    A child only draws and writes: it uses none of the locks or threads that make forking risky.
    """
    can_fork = sys.platform.startswith("linux") and not multiprocessing.current_process().daemon
    processes = min(PROCESSES, len(tasks)) if can_fork else 1
    if processes == 1:
        return list(starmap(_write_shard, tasks))
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.starmap(_write_shard, tasks, chunksize=1)


def _write_shard(task: ShardTask, seed: int, size: int, asked: int) -> int:
    """Write one tar. Returns its size in bytes."""
    write_shard(task.path, (sample(index, task.split, seed, size, asked) for index in range(task.start, task.stop)))
    return task.path.stat().st_size
