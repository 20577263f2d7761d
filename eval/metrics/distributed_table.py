"""What a benchmark remembers between batches: rows, each with a 64-bit identity, each counted once.

Distributed samplers repeat samples to fill the last batches. Here a repeated row is recognised by its identity and
dropped, and rows are sorted by it, so that the numbers are the same for any number of ranks and any order of batches.
torchmetrics' list states cannot do this: a rank without a row gathers an empty float tensor of the wrong shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval.metrics.gather import gather_rows

STEP = -7046029254386353131  # 2**64 / golden ratio, odd: consecutive ordinals land far apart
SAME = 0.9  # cosine above which two embeddings of one thing may differ by rounding alone


def key_ids(keys: Sequence[str] | Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """64-bit identities of sample keys: a hash of strings, integers as they are."""
    if isinstance(keys, Tensor):
        return keys.long()
    digests = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64)


def member_ids(keys: Int[Tensor, " B"], owner: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    """Identities of the M things that belong to samples: the sample's key and the place among its things.

    ``owner`` is the row of ``keys`` each belongs to. All things of a sample must stand in one call, in a fixed order.
    """
    order = owner.argsort(stable=True)
    runs = torch.unique_consecutive(owner[order], return_counts=True)[1]
    starts = (runs.cumsum(0) - runs).repeat_interleave(runs)
    place = torch.empty_like(owner)
    place[order] = torch.arange(len(owner), device=owner.device) - starts
    return keys[owner] + place * STEP


def first_of_each(
    ids: Int[Tensor, " N"], embeddings: Float[Tensor, "N D"] | None, what: str
) -> tuple[Int[Tensor, " U"], Int[Tensor, " N"]]:
    """The first row of each distinct id, in the order of the ids, and the number in that list of each row's id.

    Raises ValueError, calling the ids ``what``, where unit embeddings of one id point elsewhere: it names two things.
    """
    distinct, number = ids.unique(return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce(0, number, rows, "amin")
    if embeddings is not None and len(distinct) < len(ids):
        cosine = (embeddings * embeddings[first][number]).sum(1)
        if cosine.min() < SAME:
            raise ValueError(
                f"{what} must mean one thing each, got {int((cosine < SAME).sum())} rows whose embedding differs from"
                f" the first of the same id (smallest cosine {float(cosine.min()):.3f})"
            )
    return first, number


class Rows:
    """A table that grows batch by batch, then is gathered from all ranks.

    ``columns`` gives each column's dtype; a column holds a number or a vector per row. The column ``embedding``, if
    there is one, holds unit vectors.
    """

    def __init__(self, **columns: torch.dtype) -> None:
        self._dtypes = {"id": torch.int64, **columns}
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        self._parts: dict[str, list[Tensor]] = {name: [] for name in self._dtypes}

    def add(self, **columns: Tensor) -> None:
        """Append rows: ``id`` and every column, of one length."""
        if columns.keys() != self._dtypes.keys():
            raise ValueError(f"columns must be {sorted(self._dtypes)}, got {sorted(columns)}")
        for name, values in columns.items():
            self._parts[name].append(values.to(self._dtypes[name]))

    def gather(self, what: str) -> dict[str, Tensor]:
        """All ranks' rows, each id once, sorted by id; {} where there are none. Collective.

        ``what`` is the user's word for the ids, for :func:`first_of_each`'s error.
        """
        columns = {name: gather_rows(self._parts[name], dtype) for name, dtype in self._dtypes.items()}
        table = {name: values for name, values in columns.items() if values is not None}
        if not table or len(table["id"]) == 0:
            return {}
        first, _ = first_of_each(table["id"], table.get("embedding"), what)
        return {name: values[first] for name, values in table.items()}
