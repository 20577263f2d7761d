"""Loaders with a length and a position: a resumed run continues its epoch where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch

from datamodules.batch import Batch
from datamodules.batching.collate import empty_batch
from datamodules.reading.bad_samples import BadSampleRate
from datamodules.reading.local_shards import IndexedPass
from datamodules.reading.ranks import gather
from datamodules.reading.reader_settings import ReaderSettings
from datamodules.reading.remote_shards import StreamPass
from datamodules.reading.worker_signals import ignore_job_signals


def default_workers() -> int:
    """Loader processes per rank: one for each core of this process but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cores - 1, 8)


class TrainingBatches(Protocol):
    """A reader of batches from any position in the sequence of samples."""

    global_batch: int
    settings: ReaderSettings

    @property
    def samples(self) -> int | None:
        """Samples of a pass; None where they are not counted."""
        ...

    def loader(self, position: int, batches: int, workers: int, **settings: Any) -> Iterable[Batch]:
        """``batches`` batches of this rank, the first one of the global batch at ``position``."""
        ...


class EpochLoader:
    """The training loader. Collective where there are ranks.

    Each ``iter`` yields the rest of the epoch after ``resume_point``: the samples that all ranks together have been
    trained on, and the batches of this epoch that are done.
    """

    def __init__(
        self, reader: TrainingBatches, batches: int, workers: int, resume_point: Callable[[], tuple[int, int]]
    ) -> None:
        self.reader, self.batches, self.workers, self.resume_point = reader, batches, workers, resume_point
        self._rate = BadSampleRate(reader.settings.skip)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        samples, batches_done = self.resume_point()
        self._rate.restart(self.reader.samples)
        remaining = self.batches - batches_done
        batches = iter(self.reader.loader(samples, remaining, self.workers, **_settings(self.workers)))
        for number in range(1, remaining + 1):
            batch = next(batches)
            if number == remaining:
                next(batches, None)  # the workers end now, not when the next epoch begins
            self._rate.add(batch, number, last=number == remaining)
            yield batch


class PassLoader:
    """The evaluation loader: every sample once. Collective: all ranks get equally many batches, some of them empty
    where a rank has no samples left, or none that can be used. Its length is known where the shards are local.

    Args:
        reader: this rank's samples.
        workers: loader processes.
        alone: only this rank reads, so nothing is exchanged between ranks.
    """

    def __init__(self, reader: IndexedPass | StreamPass, workers: int, alone: bool = False) -> None:
        self.reader, self.workers, self.alone = reader, workers, alone

    def __len__(self) -> int:
        if isinstance(self.reader, StreamPass):
            raise TypeError("remote shards are not counted beforehand")
        return len(self.reader)

    def __iter__(self) -> Iterator[Batch]:
        rate = BadSampleRate(self.reader.settings.skip, self.alone)
        for number, (batch, last) in enumerate(self._batches(), start=1):
            rate.add(batch, number, last=last)
            if last:
                rate.check()
            yield batch

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """The batches, each with whether it is the last one of all ranks."""
        batches = iter(self.reader.loader(self.workers, **_settings(self.workers)))
        batch = next(batches, None)
        any_batch = self._any(batch is not None)
        while any_batch:
            next_batch = next(batches, None)  # its workers end with the last batch, not with the loader
            any_batch = self._any(next_batch is not None)
            yield empty_batch(self.reader.settings.prepare) if batch is None else batch, not any_batch
            batch = next_batch

    def _any(self, has_batch: bool) -> bool:
        """True if any rank has a batch; of local shards all ranks have the same number."""
        return has_batch if self.alone or isinstance(self.reader, IndexedPass) else any(gather(has_batch))


def _settings(workers: int) -> dict[str, Any]:
    return {
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": 4 if workers else None,
        "collate_fn": _identity,
        "worker_init_fn": ignore_job_signals,
    }


def _identity(batch: Batch) -> Batch:
    return batch
