"""Hard negatives: a region's text among similar texts, in the form of FG-OVD (Bianchi et al., CVPR 2024).

The negatives differ from the right text in one attribute (hard), two, three (easy), or describe another object
(trivial). Accuracy is the share of a level's questions whose right text scores highest, however many negatives they
have (as FG-CLIP and β-CLIP report it: a tie is a hit; FG-OVD's own rank counts ties as misses).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from datamodules.batch import MultipleChoice
from eval.metrics.distributed_table import TableMetric, concatenated, key_ids, member_ids
from eval.metrics.ranking import Ties
from eval.metrics.similarity import unit_rows


def choice_numbers(
    head: str, hits: Shaped[Tensor, " Q"], tied: Shaped[Tensor, " Q"], candidates: Int[Tensor, " Q"]
) -> dict[str, float]:
    """``accuracy``, ``chance`` (accuracy by guessing), ``ties`` (share of questions that a tie decides), all in [0, 1],
    and the number of ``questions``; ``candidates`` counts the right text and the wrong ones.
    """
    return {
        f"{head}/accuracy": hits.double().mean().item(),
        f"{head}/chance": candidates.double().reciprocal().mean().item(),
        f"{head}/ties": tied.double().mean().item(),
        f"{head}/questions": float(len(hits)),
    }


class HardNegatives(TableMetric):
    """Accuracy of multiple choice, over batches and ranks; ``compute`` gives ``{name/level/measure: number}``.

    ``kwargs`` are those of every ``torchmetrics.Metric``.
    """

    level_names: list[Tensor]  # UTF-8, each name closed by a zero byte: states are tensors

    def __init__(self, name: str = "hard_negatives", ties: Ties = Ties.OPTIMISTIC, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name, self.ties = name, Ties(ties)
        self.add_table("answers", level=torch.int64, best=torch.int64, tied=torch.int64, candidates=torch.int64)
        self.add_state("level_names", [], dist_reduce_fx="cat")

    def update(
        self,
        region_embeddings: Float[Tensor, "R D"],
        candidate_embeddings: Float[Tensor, "U D"],
        choices: MultipleChoice,
        region_image: Int[Tensor, " R"],
        keys: Sequence[str] | Int[Tensor, " B"],
    ) -> None:
        """Add a batch: unit embeddings of its regions and of its unique texts, and the questions about them.

        ``choices.index`` names rows of ``candidate_embeddings``. ``region_image`` (``batch.regions.image``) is the row
        of ``keys`` each region belongs to; ``keys`` are unique over the data set, and a repeated key counts once.
        Raises ValueError for embeddings that are not finite or not unit, and for a question without its right candidate
        or without any other.
        """
        regions = unit_rows(f"{self.name}: region_embeddings", region_embeddings)
        texts = unit_rows(f"{self.name}: candidate_embeddings", candidate_embeddings)
        if len(choices.region) == 0:
            return
        candidates = choices.valid.sum(1)
        bad = ~choices.valid[:, 0] | (candidates < 2)
        if bad.any():
            valid = choices.valid[bad][0].tolist()
            raise ValueError(f"{self.name}: valid must hold for candidate 0 and another of every question, got {valid}")
        # Products and a sum per pair instead of a matrix product: no TF32, no autocast, and a score does not depend on
        # the rest of the batch.
        scores = (texts[choices.index] * regions[choices.region][:, None]).sum(2)
        negatives = scores[:, 1:].masked_fill(~choices.valid[:, 1:], -torch.inf).amax(1)
        levels = key_ids(choices.levels).to(regions.device)
        names = bytearray("".join(f"{level}\0" for level in choices.levels), "utf-8")
        self.level_names.append(torch.frombuffer(names, dtype=torch.uint8).to(regions.device))
        self.append(
            "answers",
            id=member_ids(key_ids(keys).to(regions.device), region_image[choices.region]),
            level=levels[choices.level],
            best=scores[:, 0] > negatives,
            tied=scores[:, 0] == negatives,
            candidates=candidates,
        )

    def compute(self) -> dict[str, float]:
        """The numbers of :func:`choice_numbers` for each level; {} where there are no questions. Collective."""
        answers = self.rows("answers", f"{self.name}: keys")
        if not answers:
            return {}
        names = bytes(concatenated(self.level_names).tolist()).decode()
        levels = list(dict.fromkeys(names.split("\0")[:-1]))
        right = answers["best"] if self.ties is Ties.PESSIMISTIC else answers["best"] + answers["tied"]
        numbers: dict[str, float] = {}
        for level, code in zip(levels, key_ids(levels).tolist(), strict=True):
            rows = answers["level"] == code
            if rows.any():
                candidates, tied = answers["candidates"][rows], answers["tied"][rows]
                numbers |= choice_numbers(f"{self.name}/{level}", right[rows], tied, candidates)
        return numbers
