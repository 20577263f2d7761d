"""Samples of boxes and phrases, and batches of them, for the tests of what learns from regions."""

from __future__ import annotations

from pathlib import Path

from datamodules import GrainSampling, GranularityData, Squash
from datamodules.batch import Batch
from datamodules.batching.region_sampling import RegionSampling
from datamodules.sample import Region
from tests.helpers.tiny import make_sample, write_tar


def write_regions(folder: Path) -> list[str]:
    """Twelve samples of one or two boxes, each linked to one or both phrases; sample 5 has no region."""
    samples = []
    for number in range(12):
        regions = [Region((0.1, 0.2, 0.6, 0.9), 0, "a"), Region((0.3, 0.0, 1.0, 0.5), 1, "b")]
        if number % 3 == 0:
            regions.append(Region((0.1, 0.2, 0.6, 0.9), 1, "a"))
        if number % 4 == 1:
            regions.append(Region((0.5, 0.5, 0.9, 0.9), None, "c"))
        samples.append(make_sample(number, regions=() if number == 5 else tuple(regions)))
    return [str(write_tar(folder / "train-000.tar", samples))]


def region_data(shards, regions=RegionSampling(crops=1), context=77, **sampling) -> GranularityData:
    return GranularityData(
        shards, shards, batch_size=6, val_batch_size=6, num_workers=0, image_size=16, context_length=context,
        sampling=GrainSampling(**({"sentences": 0, "phrases": 4} | sampling)), regions=regions,
        train_transform=Squash(),
    )  # fmt: skip


def first_batch(shards, **settings) -> Batch:
    """In double precision."""
    module = region_data(shards, **settings)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    batch = module.on_after_batch_transfer(batch, 0)
    crops = batch.crops._replace(pixels=batch.crops.pixels.double())
    regions = batch.regions._replace(boxes=batch.regions.boxes.double())
    return batch._replace(images=batch.images.double(), crops=crops, regions=regions)
