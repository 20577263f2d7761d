"""Multiple choice: which of several texts describes this image, or region? In each question the first text is right.

FG-OVD, SugarCrepe and ARO share this protocol. They count ties differently: FG-CLIP's FG-OVD as hits, the others as
misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.interfaces import EvalContext, Model
from eval.metrics.hard_negatives import choice_numbers
from eval.metrics.ranking import Ties
from eval.protocols.embed import embed_texts
from eval.results.per_item import Items, Mean


class Question(NamedTuple):
    """``row`` is that of the image or region; the first of ``texts`` is right."""

    row: int
    texts: tuple[str, ...]
    name: str


class Answers(NamedTuple):
    """For each question, how many wrong texts score above the right one and as much, and how many there are."""

    better: Int[Tensor, " Q"]
    tied: Int[Tensor, " Q"]
    wrong: Int[Tensor, " Q"]
    chosen: Int[Tensor, " Q"]  # index of the text, the first of the best
    not_below: Bool[Tensor, "Q W"]  # the wrong texts, in order, that score as much or more

    def hits(self, ties: Ties) -> Bool[Tensor, " Q"]:
        """True where the right text scores highest."""
        beaten = self.better if ties is Ties.OPTIMISTIC else self.better + self.tied
        return beaten == 0


def answer_questions(
    model: Model, run: EvalContext, rows: Float[Tensor, "R D"], questions: Sequence[Question], label: str
) -> Answers:
    """Compare each question's row with its texts, in fp32. Collective.

    Raises ValueError for a question without a wrong text.
    """
    for question in questions:
        if len(question.texts) < 2:
            raise ValueError(f"{label}: a question needs at least two texts, got {question.texts} in {question.name}")
    texts = embed_texts(model, run, [text for question in questions for text in question.texts], label)
    sizes = torch.tensor([len(question.texts) for question in questions])
    index = torch.zeros(len(questions), int(sizes.max()), dtype=torch.long)
    valid = torch.arange(index.shape[1]) < sizes[:, None]
    index[valid] = torch.arange(len(texts))
    counts, not_below = [], []
    row = torch.tensor([question.row for question in questions])
    for part in torch.arange(len(questions)).split(1024):
        # Products and a sum per pair: a score does not depend on the other texts.
        scores = (texts[index[part]] * rows[row[part]][:, None]).sum(2).masked_fill(~valid[part], -torch.inf)
        right, wrong = scores[:, :1], scores[:, 1:]
        counts.append(torch.stack([(wrong > right).sum(1), (wrong == right).sum(1), scores.argmax(1)]))
        not_below.append(wrong >= right)
    better, tied, chosen = torch.cat(counts, dim=1)
    return Answers(better, tied, sizes - 1, chosen, torch.cat(not_below))


def answer_numbers(head: str, answers: Answers, ties: Ties) -> dict[str, float]:
    """The numbers of ``choice_numbers``, with ties counted as the protocol does."""
    tied = (answers.tied > 0) & (answers.better == 0)
    return choice_numbers(head, answers.hits(ties), tied, answers.wrong + 1)


def answer_items(
    head: str,
    questions: Sequence[Question],
    answers: Answers,
    ties: Ties,
    names: Sequence[str],
    extra_columns: Mapping[str, list[Any]] | None = None,
) -> Items:
    """A row per question; ``names`` are those of the questions' images."""
    columns = {
        "question": [question.name for question in questions],
        "image": list(names),
        "right": [question.texts[0] for question in questions],
        "chosen": [q.texts[c] for q, c in zip(questions, answers.chosen.tolist(), strict=True)],
        "better": answers.better.tolist(),
        "tied": answers.tied.tolist(),
        "hit": answers.hits(ties).tolist(),
        **(extra_columns or {}),
    }
    return Items(columns, {f"{head}/accuracy": Mean("hit")}, "image")
