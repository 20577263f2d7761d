"""Metrics of every validation, whatever the method: retrieval by caption, by sentence and, where they are sampled, by
summary; hard negatives; and, where the data names the labels of its boxes, the classification of boxes.

Retrieval uses plain CLIP embeddings (class token, EOT), as applications do. The others compare a text with the box it
describes, by RoIAlign over the dense features (FG-OVD's and FG-CLIP's protocol); they are left out where an image tower
gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.batch import Batch, Grain
from datamodules.batching.tokenizer import word_hash
from eval import BoxAccuracy, HardNegatives, Retrieval, slot_rows
from eval.metrics.distributed_table import concatenated
from eval.protocols.prompts import class_vectors
from lightning_modules.networks import ImageFeatures, TextFeatures, pool_regions

RETRIEVED = (Grain.CAPTION, Grain.SUMMARY, Grain.SENTENCE)
TEMPLATES = ("a {}.", "the {}.")  # of a box's class


class MeanLosses(Metric):
    """Means of loss terms over the images of a validation pass, the same on every rank.

    A batch's term is the mean over ranks of what each rank computes, and weighs as many images as it has on all ranks.
    """

    batches: list[Float[Tensor, "1 T+1"]] | Float[Tensor, "W T+1"]  # the terms and the number of images

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("batches", [], dist_reduce_fx="cat")
        self._names: tuple[str, ...] = ()

    def update(self, terms: Mapping[str, Float[Tensor, ""]], images: int) -> None:
        """Add a batch; on all ranks as many batches, with the same terms in the same order."""
        assert isinstance(self.batches, list)
        self._names = tuple(terms)
        values = torch.stack([term.detach().float() for term in terms.values()])
        self.batches.append(torch.cat([values, values.new_tensor([images])])[None])

    def compute(self) -> dict[str, Tensor]:
        """Means by name; {} without batches. Collective: every rank must call it."""
        if not len(self.batches):
            return {}
        rows = concatenated(self.batches)  # the batches of the first rank, of the second...
        table = rows.view(-1, self.update_count, rows.shape[1])
        terms, images = table[..., :-1].mean(0), table[..., -1:].sum(0)
        means = (terms * images).sum(0) / images.sum().clamp(min=1)
        return dict(zip(self._names, means, strict=True))


class Validation(nn.Module):
    """The metrics of a validation pass: ``prepare`` before it, ``update`` with every batch; ``compute`` gives the
    numbers, and ``reset`` forgets them. A submodule, so that its states move with the method's device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.retrieval = nn.ModuleDict({grain.value: Retrieval(grain.value) for grain in RETRIEVED})
        self.hard_negatives = HardNegatives()
        self.boxes = BoxAccuracy()
        self._ids = torch.empty(0, dtype=torch.long)  # of the boxes' classes, as in a batch
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
        for grain in RETRIEVED:
            text, image = slot_rows(batch.grains[grain])
            retrieval = cast(Retrieval, self.retrieval[grain.value])
            retrieval.update(images.image, texts.text[text], image, batch.ids, batch.texts.ids[text])
        if images.dense.shape[2] == 0:
            return  # no patch features, no boxes
        needed = slice(None) if len(batch.choices.region) or self._classes is not None else slice(0)
        owner = batch.regions.image[needed]
        regions = pool_regions(images.dense, batch.regions.boxes[needed], owner)
        self.hard_negatives.update(regions, texts.text, batch.choices, owner, batch.ids)
        if self._classes is not None:
            self._classify(batch, regions, self._classes)

    def compute(self) -> dict[str, float]:
        """All numbers, the same on every rank; {} without batches. Collective."""
        numbers: dict[str, float] = {}
        for metric in self._metrics():
            if metric.update_called and (metric is not self.boxes or self._classes is not None):
                numbers |= metric.compute()
        return numbers

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self._metrics():
            metric.reset()

    def _metrics(self) -> list[Metric]:
        return [module for module in self.modules() if isinstance(module, Metric)]

    def _classify(self, batch: Batch, regions: Float[Tensor, "R D"], classes: Float[Tensor, "C D"]) -> None:
        """Add the boxes whose label is one of the classes; others, and those without a label, do not count."""
        matches = batch.regions.label[:, None] == self._ids.to(regions.device)
        box, label = matches.nonzero(as_tuple=True)
        self.boxes.update(regions[box], classes.to(regions.device), label, batch.regions.image[box], batch.ids)
