"""What is measured in every validation, whatever the method: retrieval by caption, by sentence and, where they are
sampled, by summary; hard negatives; and, where the data names the labels of its boxes, the classification of boxes.

Retrieval uses plain CLIP embeddings (class token, EOT): what a model is used with. The others compare a text with the
box it is about, by RoIAlign over the dense features (FG-OVD's and FG-CLIP's protocol).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from datamodules.batch import Batch, Grain
from datamodules.batching.tokenizer import word_hash
from eval import BoxAccuracy, HardNegatives, Retrieval, slot_rows
from eval.metrics.gather import world_size
from eval.protocols.prompts import class_vectors
from lightning_modules.networks import ImageFeatures, TextFeatures, pool_regions

TEMPLATES = ("a {}.", "the {}.")


class MeanLosses:
    """Means of loss terms over the images of a validation pass, the same on every rank.

    A batch's term is the mean over ranks of what each rank computes, and weighs as many images as it has on all ranks.
    """

    def __init__(self) -> None:
        self._batches: list[Float[Tensor, " T+1"]] = []  # the terms and the number of images
        self._names: tuple[str, ...] = ()

    def update(self, terms: Mapping[str, Float[Tensor, ""]], images: int) -> None:
        """Add a batch; in the same order on all ranks, with the same terms."""
        self._names = tuple(terms)
        values = torch.stack([term.detach().float() for term in terms.values()])
        self._batches.append(torch.cat([values, values.new_tensor([images])]))

    def compute(self) -> dict[str, Tensor]:
        """The means by name, {} where nothing was seen; starts anew. Collective: every rank must call it."""
        if not self._batches:
            return {}
        table, ranks = torch.stack(self._batches), world_size()
        self._batches = []
        if ranks > 1:
            dist.all_reduce(table)
        terms, images = table[:, :-1] / ranks, table[:, -1:]
        means = (terms * images).sum(0) / images.sum().clamp(min=1)
        return dict(zip(self._names, means, strict=True))


class Validation:
    """Collects a validation pass: ``prepare`` before it, ``update`` with every batch; ``compute`` gives the numbers and
    starts anew.
    """

    def __init__(self) -> None:
        self.retrieval = {grain: Retrieval(grain.value) for grain in (Grain.CAPTION, Grain.SUMMARY, Grain.SENTENCE)}
        self.hard_negatives = HardNegatives()
        self.boxes = BoxAccuracy()
        self._ids = torch.empty(0, dtype=torch.long)  # of the boxes' classes, as they stand in a batch
        self._classes: Tensor | None = None

    def prepare(self, labels: Sequence[str], encode_text: Callable[[Sequence[str]], Float[Tensor, "N D"]]) -> None:
        """Name the classes of boxes for the pass to come; without ``labels`` boxes are not classified.

        Raises ValueError where a label stands twice.
        """
        ids = torch.tensor([word_hash(label) for label in labels], dtype=torch.long)
        if len(ids.unique()) < len(ids):
            raise ValueError(f"labels must differ, got {list(labels)}")
        self._ids = ids
        self._classes = class_vectors(encode_text, labels, TEMPLATES) if labels else None

    def update(self, batch: Batch, images: ImageFeatures, texts: TextFeatures) -> None:
        """Add a batch."""
        for grain, retrieval in self.retrieval.items():
            text, image = slot_rows(batch.grains[grain])
            retrieval.update(images.image, texts.text[text], image, batch.ids, batch.texts.ids[text])
        if len(batch.choices.region) == 0 and self._classes is None:
            return
        regions = pool_regions(images.dense, batch.regions.boxes, batch.regions.image)
        self.hard_negatives.update(regions, texts.text, batch.choices, batch.regions.image, batch.ids)
        if self._classes is not None:
            self._classify(batch, regions, self._classes)

    def compute(self) -> dict[str, float]:
        """All numbers, the same on every rank; {} where nothing was seen."""
        numbers: dict[str, float] = {}
        for benchmark in (*self.retrieval.values(), self.hard_negatives, self.boxes):
            numbers |= benchmark.compute()
            benchmark.reset()
        return numbers

    def _classify(self, batch: Batch, regions: Float[Tensor, "R D"], classes: Float[Tensor, "C D"]) -> None:
        """The boxes whose label is one of the classes; others, and those without a label, do not count."""
        same = batch.regions.label[:, None] == self._ids.to(regions.device)
        box, label = same.nonzero(as_tuple=True)
        self.boxes.update(regions[box], classes.to(regions.device), label, batch.regions.image[box], batch.ids)
