"""Classification of an image, or a box, among many classes: the rank of the right class, and the first class.

Equal class vectors are multiplied once, so that two classes of one name ("missile" stands twice among ImageNet's) tie
to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.similarity import exact_fp32, unit_rows

SLICE = 1024  # rows


class ClassRanks(NamedTuple):
    """Per row: the classes that score more than the right one; those that score as much, and of these the ones that
    stand before it; and the first of the best.
    """

    better: Int[Tensor, " N"]
    equal: Int[Tensor, " N"]
    before: Int[Tensor, " N"]
    chosen: Int[Tensor, " N"]


def rank_classes(
    name: str, rows: Float[Tensor, "N D"], classes: Float[Tensor, "C D"], label: Int[Tensor, " N"]
) -> ClassRanks:
    """By inner product, on the CPU; ``label`` is a row of ``classes``. Raises ValueError for classes that are no unit
    vectors.
    """
    classes = unit_rows(f"{name}: class vectors", classes).cpu()
    distinct, copy = classes.unique(dim=0, return_inverse=True)
    order, found = torch.arange(len(classes)), []
    with exact_fp32(rows.device):
        for part, own in zip(rows.split(SLICE), label.split(SLICE), strict=True):
            scores = (part @ distinct.T)[:, copy]
            right = scores.gather(1, own[:, None])
            same = scores == right
            before = (same & (order < own[:, None])).sum(1)
            found.append(torch.stack([(scores > right).sum(1), same.sum(1) - 1, before, scores.argmax(1)]))
    return ClassRanks(*torch.cat(found, dim=1))
