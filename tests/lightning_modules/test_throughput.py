"""Throughput and counts of the data are logged every so many steps over the run, wherever its epochs end."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import ClipFinetune
from lightning_modules.callbacks import DataMonitor, Throughput
from tests.helpers.tiny_run import fit

pytestmark = pytest.mark.filterwarnings("ignore")
TAGS = "throughput/images_per_second", "throughput/data_wait_fraction", "throughput/teraflops", "data/skipped"


class Counting(Throughput):
    """Records the images that are counted at each log point."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = []

    def _log_arithmetic(self, trainer, pl_module):
        self.counted.append(self.images)
        super()._log_arithmetic(trainer, pl_module)


@pytest.mark.parametrize(
    ("every", "accumulated", "steps", "images"),
    [
        (1, 1, [1, 2, 3, 4, 5, 6], [8] * 6),
        (2, 1, [2, 4, 6], [16] * 3),
        (4, 1, [4], [32]),  # an epoch has three steps
        (2, 2, [2, 4], [24] * 2),  # a step after batches 2 and 3 of each epoch
        (0, 1, [], []),
    ],
)
def test_log_points_are_counted_in_steps_over_the_run(tmp_path, every, accumulated, steps, images):
    """Two epochs of three batches, each followed by a validation."""
    throughput = Counting()
    settings = {"log_every_n_steps": every, "accumulate_grad_batches": accumulated}
    fit(tmp_path, throughput, DataMonitor(), epochs=2, method=ClipFinetune, trainer=settings)
    events = EventAccumulator(str(tmp_path)).Reload()
    logged = {tag: [event.step + 1 for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert throughput.counted == images
    for tag in TAGS:
        assert logged.get(tag, []) == steps
