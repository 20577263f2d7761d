"""Loaders that know their length and their place: an epoch goes on where a resumed run stopped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.stream import BatchStream, Share


def default_workers() -> int:
    """Loader processes per rank: one for each core of this process but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cores - 1, 8)


class EpochLoader:
    """The training loader. Each ``iter`` asks ``done`` how many batches were trained on and yields the rest of that
    epoch.

    Lightning's epoch counter is not used: after a resume it can still be 0 when the loader starts.
    """

    def __init__(self, stream: BatchStream, batches: int, workers: int, done: Callable[[], int]) -> None:
        self.stream, self.batches, self.workers, self.done = stream, batches, workers, done

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        self.stream.epoch, self.stream.start = divmod(self.done(), self.batches)
        yield from _loader(self.stream, self.workers)


class PassLoader:
    """The evaluation loader: every sample once. ``samples`` counts the samples of each shard where they are known."""

    def __init__(self, stream: BatchStream, samples: list[int], workers: int) -> None:
        self.stream, self.workers = stream, workers
        readers = max(workers, 1)
        shares = [Share(stream.rank * readers + w, stream.ranks * readers).size(samples) for w in range(readers)]
        self.batches = sum(math.ceil(size / stream.batch_size) for size in shares)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        yield from _loader(self.stream, self.workers)


def _loader(stream: BatchStream, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
