"""Box classification: the rank of a box's class among C classes, by the box's embedding and the classes' texts.

Papers use two averages that must not be compared: over boxes (FG-CLIP's top-1 and top-5) and over the classes present
(CLIPSelf's mAcc, where "person" does not dominate). Both are given; CLIPSelf rounds each class to fp16, we do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.distributed_table import TableMetric, key_ids, member_ids
from eval.metrics.ranking import Ranks, Ties, checked_ks, rank_embeddings
from eval.metrics.similarity import check_index, unit_rows

KS = (1, 5)


def box_numbers(
    name: str, ranks: Ranks, label: Int[Tensor, " R"], ks: Sequence[int] = KS, ties: Ties = Ties.OPTIMISTIC
) -> dict[str, float]:
    """``topK`` over boxes, ``class_mean_topK`` over the classes present and ``ties``, all in [0, 1], and the number of
    ``boxes``. ``ranks`` are those of the right classes, ``label``.
    """
    _, label, count = label.unique(return_inverse=True, return_counts=True)
    numbers = {f"{name}/top{k}": ranks.recall(k, ties) for k in ks}
    for k in ks:
        hits = torch.zeros_like(count).scatter_add(0, label, ranks.hits(k, ties).long())
        numbers[f"{name}/class_mean_top{k}"] = (hits.double() / count).mean().item()
    return {**numbers, f"{name}/ties": ranks.tied(), f"{name}/boxes": float(len(label))}


class BoxAccuracy(TableMetric):
    """Top-K accuracy of boxes, over batches and ranks; ``compute`` gives ``{name/measure: number}``.

    Stores the ranks of the right classes, not the embeddings. ``kwargs`` are those of every ``torchmetrics.Metric``.
    """

    def __init__(
        self, name: str = "boxes", ks: Sequence[int] = KS, ties: Ties = Ties.OPTIMISTIC, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.name, self.ks, self.ties = name, checked_ks(ks), Ties(ties)
        self.add_table("boxes", label=torch.int64, optimistic=torch.int64, pessimistic=torch.int64)

    def update(
        self,
        region_embeddings: Float[Tensor, "R D"],
        class_embeddings: Float[Tensor, "C D"],
        labels: Int[Tensor, " R"],
        region_image: Int[Tensor, " R"],
        keys: Sequence[str] | Int[Tensor, " B"],
    ) -> None:
        """Add a batch of unit embeddings; ``labels`` are rows of ``class_embeddings``, the same classes every time.

        ``region_image`` is the row of ``keys`` each box belongs to; ``keys`` are unique over the data set, and a
        repeated key counts once. Raises ValueError for embeddings that are not finite or not unit,
        and labels out of range.
        """
        regions = unit_rows(f"{self.name}: region_embeddings", region_embeddings)
        classes = unit_rows(f"{self.name}: class_embeddings", class_embeddings)
        if len(labels) != len(regions):
            raise ValueError(f"{self.name}: labels must be one a region, got {len(labels)} for {len(regions)}")
        check_index(f"{self.name}: labels", labels, len(classes))
        boxes = torch.arange(len(regions), device=regions.device)
        ranks = rank_embeddings(regions, classes, torch.stack([boxes, labels], dim=1))
        ids = member_ids(key_ids(keys).to(regions.device), region_image)
        self.append("boxes", id=ids, label=labels, optimistic=ranks.optimistic, pessimistic=ranks.pessimistic)

    def compute(self) -> dict[str, float]:
        """The numbers of :func:`box_numbers`; {} where there are no boxes. Collective."""
        boxes = self.rows("boxes", f"{self.name}: keys")
        if not boxes:
            return {}
        ranks = Ranks(boxes["optimistic"], boxes["pessimistic"])
        return box_numbers(self.name, ranks, boxes["label"], self.ks, self.ties)
