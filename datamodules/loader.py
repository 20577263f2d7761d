"""Loaders that know their length and their place: an epoch goes on where a resumed run stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.indexed import IndexedPass
from datamodules.stream import StreamPass
from datamodules.worker_signals import heed_parent_only


def default_workers() -> int:
    """Loader processes per rank: one for each core of this process but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cores - 1, 8)


class TrainingBatches(Protocol):
    """What both readers are: batches from any position in the sequence of samples."""

    global_batch: int

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> DataLoader[Batch]:
        """``batches`` batches of this rank, the first one of the global batch at ``position``."""
        ...


class EpochLoader:
    """The training loader. Each ``iter`` asks ``place`` how many samples all ranks together have been trained on and
    how many batches of this epoch are done, and yields the rest of the epoch.
    """

    def __init__(
        self, reader: TrainingBatches, batches: int, workers: int, place: Callable[[], tuple[int, int]]
    ) -> None:
        self.reader, self.batches, self.workers, self.place = reader, batches, workers, place

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        samples, done = self.place()
        yield from self.reader.loader(samples, self.batches - done, self.workers, **_settings(self.workers))


class PassLoader:
    """The evaluation loader: every sample once. Its length is known where the shards are local."""

    def __init__(self, reader: IndexedPass | StreamPass, workers: int) -> None:
        self.reader, self.workers = reader, workers

    def __len__(self) -> int:
        if isinstance(self.reader, StreamPass):
            raise TypeError("remote shards are not counted beforehand")
        return len(self.reader)

    def __iter__(self) -> Iterator[Batch]:
        batches = self.reader.loader(self.workers, **_settings(self.workers))
        yield from (batch for batch in batches if batch is not None)


def _settings(workers: int) -> dict[str, Any]:
    return {
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": 4 if workers else None,
        "collate_fn": _as_it_is,
        "worker_init_fn": heed_parent_only,
    }


def _as_it_is(batch: Batch) -> Batch:
    return batch
