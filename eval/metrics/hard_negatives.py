"""Hard negatives: which of N texts describes this region? The form of FG-OVD (Bianchi et al., CVPR 2024).

The negatives differ from the right text in one attribute (hard), two, three (easy), or are another object's (trivial).
Accuracy is the share of questions whose right text scores highest, all questions of a level alike, however many
negatives they have (as FG-CLIP and β-CLIP report it: a tie is a hit; FG-OVD's own rank counts ties as misses).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.batch import MultipleChoice
from eval.metrics.distributed_table import Rows, key_ids, member_ids
from eval.metrics.gather import gather_names
from eval.metrics.ranking import Ties
from eval.metrics.similarity import unit_rows


class HardNegatives:
    """Collects answers over batches and ranks; ``compute`` gives ``{name/level/measure: number}``."""

    def __init__(self, name: str = "hard_negatives", ties: Ties = Ties.OPTIMISTIC) -> None:
        self.name, self.ties = name, Ties(ties)
        self._answers = Rows(level=torch.int64, best=torch.int64, tied=torch.int64, candidates=torch.int64)
        self._levels: list[str] = []

    def reset(self) -> None:
        """Forget everything seen."""
        self._answers.reset()
        self._levels = []

    def update(
        self,
        region_embeddings: Float[Tensor, "R D"],
        text_embeddings: Float[Tensor, "U D"],
        choices: MultipleChoice,
        region_image: Int[Tensor, " R"],
        keys: Sequence[str] | Int[Tensor, " B"],
    ) -> None:
        """Add a batch: unit embeddings of its regions and of its unique texts, and the questions about them.

        ``region_image`` (``batch.regions.image``) is the row of ``keys`` each region belongs to; ``keys`` are unique
        over the data set, and a key seen before is a repetition and counts once.
        Raises ValueError for embeddings that are not finite or not unit, a question without its right candidate or
        without any other.
        """
        regions = unit_rows(f"{self.name}: region_embeddings", region_embeddings)
        texts = unit_rows(f"{self.name}: text_embeddings", text_embeddings)
        if len(choices.region) == 0:
            return
        candidates = choices.valid.sum(1)
        bad = ~choices.valid[:, 0] | (candidates < 2)
        if bad.any():
            found = choices.valid[bad][0].tolist()
            raise ValueError(f"{self.name}: valid must hold for candidate 0 and another of every question, got {found}")
        # Products and a sum per pair instead of a matrix product: no TF32, no autocast, and a score does not depend on
        # what else is in the batch.
        scores = (texts[choices.index] * regions[choices.region][:, None]).sum(2)
        negatives = scores[:, 1:].masked_fill(~choices.valid[:, 1:], -torch.inf).amax(1)
        levels = key_ids(choices.levels).to(regions.device)
        self._levels = list(dict.fromkeys([*self._levels, *choices.levels]))
        self._answers.add(
            id=member_ids(key_ids(keys).to(regions.device), region_image[choices.region]),
            level=levels[choices.level],
            best=scores[:, 0] > negatives,
            tied=scores[:, 0] == negatives,
            candidates=candidates,
        )

    def compute(self) -> dict[str, float]:
        """Per level: ``accuracy``, ``chance`` (by guessing), ``ties`` (share of questions the right text shares the
        first place), all in [0, 1], and the number of ``questions``. {} where there are none. Collective.
        """
        levels, answers = gather_names(self._levels), self._answers.gather(f"{self.name}: keys")
        if not answers:
            return {}
        right = answers["best"] if self.ties is Ties.PESSIMISTIC else answers["best"] + answers["tied"]
        numbers: dict[str, float] = {}
        for level, code in zip(levels, key_ids(levels).tolist(), strict=True):
            here = answers["level"] == code
            if here.any():
                head = f"{self.name}/{level}"
                numbers[f"{head}/accuracy"] = right[here].double().mean().item()
                numbers[f"{head}/chance"] = answers["candidates"][here].double().reciprocal().mean().item()
                numbers[f"{head}/ties"] = answers["tied"][here].double().mean().item()
                numbers[f"{head}/questions"] = float(here.sum())
        return numbers
