"""When the right text counts as chosen."""

from __future__ import annotations

import torch

from eval.metrics.ranking import Ties
from eval.protocols.multiple_choice import Answers


def test_a_hit_is_beaten_by_none_and_ties_are_read_as_asked():
    better, tied = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    answers = Answers(better, tied, torch.full((4,), 3), torch.zeros(4, dtype=torch.long), torch.zeros(4, 3) > 0)
    assert answers.hits(Ties.PESSIMISTIC).tolist() == [True, False, False, False]
    assert answers.hits(Ties.OPTIMISTIC).tolist() == [True, True, False, False]
