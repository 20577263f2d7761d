"""Classification of images or boxes: the rank of the right class, and the chosen class.

Equal class vectors are multiplied once, so that two classes of one name (ImageNet has two called "missile") tie to the
bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.similarity import exact_fp32, unit_rows

SLICE = 1024  # rows


class ClassRanks(NamedTuple):
    """For each row, how many classes score above the right one, how many others as much, how many of these come before
    it in the list, and the class that is chosen: the first of the best.
    """

    better: Int[Tensor, " N"]
    equal: Int[Tensor, " N"]
    before: Int[Tensor, " N"]
    chosen: Int[Tensor, " N"]


def rank_classes(
    name: str, rows: Float[Tensor, "N D"], classes: Float[Tensor, "C D"], label: Int[Tensor, " N"]
) -> ClassRanks:
    """Ranks by inner product, on the CPU; ``label`` is a row of ``classes``. Raises ValueError for class vectors that
    are not unit vectors.
    """
    classes = unit_rows(f"{name}: class vectors", classes).cpu()
    distinct, copy = classes.unique(dim=0, return_inverse=True)
    order, counts = torch.arange(len(classes)), []
    with exact_fp32(rows.device):
        for chunk, right_class in zip(rows.split(SLICE), label.split(SLICE), strict=True):
            scores = (chunk @ distinct.T)[:, copy]
            right = scores.gather(1, right_class[:, None])
            same = scores == right
            before = (same & (order < right_class[:, None])).sum(1)
            counts.append(torch.stack([(scores > right).sum(1), same.sum(1) - 1, before, scores.argmax(1)]))
    return ClassRanks(*torch.cat(counts, dim=1))
