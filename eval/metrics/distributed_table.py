"""Rows that a metric stores between batches, each with a 64-bit id and counted once.

Distributed samplers repeat samples to fill the last batches. A repeated row is recognised by its id and dropped, and
rows are sorted by id, so that the numbers are the same for any number of ranks and any order of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from eval.metrics.gather import gather_ragged

STEP = -7046029254386353131  # 2**64 / golden ratio, odd: consecutive members get ids that lie far apart
SAME = 0.9  # two embeddings of one item have at least this cosine: rounding alone does not lower it further


def key_ids(keys: Sequence[str] | Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """64-bit ids of sample keys: strings are hashed, integers stay as they are."""
    if isinstance(keys, Tensor):
        return keys.long()
    digests = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64)


def member_ids(keys: Int[Tensor, " B"], owner: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    """Ids of the M members (texts, boxes) of samples, made of the sample's id and the member's position in the sample.

    ``owner`` is the row of ``keys`` each member belongs to. One call must hold all members of a sample, in a fixed
    order.
    """
    order = owner.argsort(stable=True)
    runs = torch.unique_consecutive(owner[order], return_counts=True)[1]
    starts = (runs.cumsum(0) - runs).repeat_interleave(runs)
    position = torch.empty_like(owner)
    position[order] = torch.arange(len(owner), device=owner.device) - starts
    return keys[owner] + position * STEP


def first_of_each(
    ids: Int[Tensor, " N"], embeddings: Float[Tensor, "N D"] | None, meaning: str
) -> tuple[Int[Tensor, " U"], Int[Tensor, " N"]]:
    """The first row of each distinct id, sorted by id, and for each row the position of its id in that list.

    Raises ValueError, calling the ids ``meaning``, where one id has unit embeddings that differ.
    """
    distinct, number = ids.unique(return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce(0, number, rows, "amin")
    if embeddings is not None and len(distinct) < len(ids):
        cosine = (embeddings * embeddings[first][number]).sum(1)
        if cosine.min() < SAME:
            raise ValueError(
                f"{meaning} must mean one item each, got {int((cosine < SAME).sum())} rows whose embedding"
                f" differs from the first of the same id (smallest cosine {float(cosine.min()):.3f})"
            )
    return first, number


class TableMetric(Metric):
    """A torchmetrics metric whose states are tables. They move with the module, ``compute`` gathers them from all
    ranks, ``reset`` empties them, and checkpoints do not hold them.

    ``kwargs`` are those of every ``torchmetrics.Metric``. Ranks may hold different numbers of rows, or none.
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_ragged, **kwargs})
        self._tables: dict[str, dict[str, torch.dtype]] = {}

    def add_table(self, table: str, **columns: torch.dtype) -> None:
        """Add a table without rows: the column ``id`` and ``columns``, by dtype, each a number or a vector per row.

        A column ``embedding`` holds unit vectors.
        """
        self._tables[table] = {"id": torch.int64, **columns}
        for column in self._tables[table]:
            self.add_state(f"{table}_{column}", [], dist_reduce_fx="cat")

    def append(self, table: str, **columns: Tensor) -> None:
        """Append rows to a table: ``id`` and every other column, of one length. Raises ValueError for other columns."""
        dtypes = self._tables[table]
        if columns.keys() != dtypes.keys():
            raise ValueError(f"columns must be {sorted(dtypes)}, got {sorted(columns)}")
        for column, values in columns.items():
            getattr(self, f"{table}_{column}").append(values.to(dtypes[column]))

    def rows(self, table: str, meaning: str) -> dict[str, Tensor]:
        """The columns of a table, each id once, sorted by id; {} where there are no rows. For use in ``compute``.

        ``meaning`` names the ids in messages. Raises ValueError where one id has two embeddings.
        """
        columns = {column: concatenated(getattr(self, f"{table}_{column}")) for column in self._tables[table]}
        if len(columns["id"]) == 0:
            return {}
        first, _ = first_of_each(columns["id"], columns.get("embedding"), meaning)
        return {column: values[first] for column, values in columns.items()}


def concatenated(state: list[Tensor] | Tensor) -> Tensor:
    """A list state as one tensor: torchmetrics has a list in one process, and a tensor after gathering ranks."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)
