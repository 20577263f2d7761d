"""Benchmarks: what a model can tell apart. They take embeddings and know no model, no loss and no trainer.

Each benchmark is a class with ``update`` (a batch), ``compute`` (the numbers, on all ranks) and ``reset``. Numbers are
plain floats, fractions in [0, 1] beside counts, and do not depend on ranks, batches or padding. Names are imported
when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.metrics.boxes import BoxAccuracy
    from eval.metrics.hard_negatives import HardNegatives
    from eval.metrics.ranking import Ranks, Ties, rank_embeddings, rank_matrix, recall_at_k
    from eval.metrics.retrieval import Retrieval, slot_rows
    from eval.results.tables import markdown, table, write_json

_HOMES = {
    "metrics.boxes": ("BoxAccuracy",),
    "metrics.hard_negatives": ("HardNegatives",),
    "metrics.ranking": ("Ranks", "Ties", "rank_embeddings", "rank_matrix", "recall_at_k"),
    "results.tables": ("markdown", "table", "write_json"),
    "metrics.retrieval": ("Retrieval", "slot_rows"),
}

__all__ = [
    "BoxAccuracy",
    "HardNegatives",
    "Ranks",
    "Retrieval",
    "Ties",
    "markdown",
    "rank_embeddings",
    "rank_matrix",
    "recall_at_k",
    "slot_rows",
    "table",
    "write_json",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"eval.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
