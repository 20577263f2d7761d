"""Results item by item: for looking at errors, and for comparing models on the same items."""

from __future__ import annotations

from typing import Any, NamedTuple


class Items(NamedTuple):
    """A table, a row per query or question.

    Args:
        columns: name to values, all of one length.
        means: name of a number to the column whose mean over rows it is.
        cluster: the column whose equal values belong together (the five captions of a picture are no five pictures);
            resampling draws clusters.
    """

    columns: dict[str, list[Any]]
    means: dict[str, str]
    cluster: str
