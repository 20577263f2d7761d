"""Results item by item: for looking at errors, and for comparing models on the same items."""

from __future__ import annotations

from typing import Any, NamedTuple


class Mean(NamedTuple):
    """The definition of a number by columns: the sum of ``value`` over that of ``weight`` within each group, then the
    mean over the groups that have any weight.

    With ``value`` alone it is the mean over rows (top-1), with a group the mean over groups (of classes, mAcc), and
    with a weight too the mean of ratios (intersection over union).
    """

    value: str
    weight: str | None = None
    group: str | None = None


class Items(NamedTuple):
    """A table, a row per query, question, box or whatever a number is a mean of.

    Args:
        columns: name to values, all of one length.
        means: how each number follows from the columns, by its name.
        cluster: the column whose equal values belong together (the five captions of an image are no five images);
            resampling draws clusters.
    """

    columns: dict[str, list[Any]]
    means: dict[str, Mean]
    cluster: str
