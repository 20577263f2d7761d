"""Weights between two models of one shape (CLIPSelf and others: what fine-tuning gains, without what it forgets), and
the running average that a checkpoint may hold beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from torch import Tensor


def average(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """``share`` of the student's weights and the rest of the teacher's, name by name; other tensors than floating-point
    ones are the student's.
    """
    return {
        name: theirs.lerp(ours.to(theirs), share) if (theirs := teacher[name]).is_floating_point() else ours
        for name, ours in student.items()
    }


TRAINED, AVERAGED = "encoder.", "averaged."  # how the names of both begin in a checkpoint


def fit_averaged(weights: MutableMapping[str, Tensor], keeps_average: bool) -> None:
    """Make a checkpoint's weights fit a run that keeps an average (begun at the weights) or none (it is left out)."""
    averaged = [name for name in weights if name.startswith(AVERAGED)]
    if keeps_average and not averaged:
        trained = {name: weight for name, weight in weights.items() if name.startswith(TRAINED)}
        weights.update((AVERAGED + name.removeprefix(TRAINED), weight) for name, weight in trained.items())
    elif not keeps_average:
        for name in averaged:
            del weights[name]
