"""Weights between two models of one shape (CLIPSelf and others: what fine-tuning gains, without what it forgets)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def average(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """``share`` of the student's weights and the rest of the teacher's, name by name; other tensors than floating-point
    ones are the student's.
    """
    return {
        name: theirs.lerp(ours.to(theirs), share) if (theirs := teacher[name]).is_floating_point() else ours
        for name, ours in student.items()
    }
