"""How often the host waits for a simulated device in a whole training step: the loader's batch to the optimiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data._utils.pin_memory import pin_memory
from typing_extensions import override

from datamodules import GrainSampling, GranularityData
from datamodules.batching.region_sampling import RegionSampling
from lightning_modules import Method
from lightning_modules.callbacks import DataMonitor, Throughput
from tests.helpers.simulated_device import DEVICE, simulated_device, waits
from tests.helpers.tiny import write_shards

WARM = 2  # steps that may make what later ones use again
STEPS = 3  # steps that are counted


class _Accelerator(CPUAccelerator):
    @override
    def setup_device(self, device: torch.device) -> None:
        """Nothing to ask: it is not there."""


class _PinnedData(GranularityData):
    """Whose loader pins its batches, as it does where there is a GPU."""

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return pin_memory(batch)


class _Counts(Callback):
    """Listens from the transfer of one batch to that of the next."""

    def __init__(self) -> None:
        self.places: list[Counter[str]] = []
        self._listening: Any = None

    def turn(self, last: bool = False) -> None:
        """A step begins; the one before it has ended."""
        if self._listening is not None:
            self._listening.__exit__(None, None, None)
        self._listening = None if last else waits()
        if self._listening is not None:
            self.places.append(self._listening.__enter__())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.turn(last=True)


def step_waits(folder: Path, method: Method, *callbacks: Callback, **settings: Any) -> list[Counter[str]]:
    """Where the host waits, in each of `STEPS` steps without logging, after `WARM` others.

    Args:
        folder: for shards.
        method: trained from where it stands, with clipping, in fp32.
        callbacks: beside those that every run has.
        settings: of the data.
    """
    counts = _Counts()
    shards = [str(shard) for shard in write_shards(folder, 8 * (WARM + STEPS + 1), 2)]
    sampling = {"sampling": GrainSampling(2, 2, 1), "regions": RegionSampling(4, 2)} | settings
    data = _PinnedData(shards, batch_size=8, num_workers=0, image_size=method.encoder.image_size, **sampling)
    transfer = data.on_before_batch_transfer

    def begin(batch: Any, dataloader_idx: int) -> Any:
        counts.turn()
        return transfer(batch, dataloader_idx)

    data.on_before_batch_transfer = begin
    with _trainer(counts, *callbacks) as trainer:
        trainer.fit(method, data)
    return counts.places[WARM : WARM + STEPS]


@contextmanager
def _trainer(*callbacks: Callback) -> Iterator[Trainer]:
    with simulated_device():
        yield Trainer(
            strategy=SingleDeviceStrategy(DEVICE, _Accelerator()), max_steps=WARM + STEPS + 1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
            log_every_n_steps=50, gradient_clip_val=1.0, callbacks=[Throughput(), DataMonitor(), *callbacks],
        )  # fmt: skip
