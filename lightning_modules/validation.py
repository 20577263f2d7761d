"""What is measured in every validation, whatever the method: retrieval by caption and by sentence, and hard negatives.

Retrieval uses plain CLIP embeddings (class token, EOT): what a model is used with. Hard negatives compare a text with
the box it is about, by RoIAlign over the dense features (FG-OVD's protocol).
"""

from __future__ import annotations

from datamodules.batch import Batch, Grain
from eval import HardNegatives, Retrieval, slot_rows
from lightning_modules.networks import ImageFeatures, TextFeatures, pool_regions


class Validation:
    """Collects a validation pass; ``compute`` gives the numbers and starts anew."""

    def __init__(self) -> None:
        self.retrieval = {grain: Retrieval(grain.value) for grain in (Grain.CAPTION, Grain.SENTENCE)}
        self.hard_negatives = HardNegatives()

    def update(self, batch: Batch, images: ImageFeatures, texts: TextFeatures) -> None:
        """Add a batch."""
        for grain, retrieval in self.retrieval.items():
            text, image = slot_rows(batch.grains[grain])
            retrieval.update(images.image, texts.text[text], image, batch.keys, batch.texts.ids[text])
        if len(batch.choices.region):
            regions = pool_regions(images.dense, batch.regions.boxes, batch.regions.image)
            self.hard_negatives.update(regions, texts.text, batch.choices, batch.regions.image, batch.keys)

    def compute(self) -> dict[str, float]:
        """All numbers, the same on every rank; {} where nothing was seen."""
        numbers: dict[str, float] = {}
        for benchmark in (*self.retrieval.values(), self.hard_negatives):
            numbers |= benchmark.compute()
            benchmark.reset()
        return numbers
