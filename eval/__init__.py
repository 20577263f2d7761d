"""Metrics and benchmarks. They take embeddings and do not depend on a model, loss or trainer.

Each metric is a class with ``update`` (a batch), ``compute`` (the numbers, on all ranks) and ``reset``. Numbers are
floats, fractions in [0, 1] and counts, and do not depend on ranks, batches or padding. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.metrics.boxes import BoxAccuracy
    from eval.metrics.hard_negatives import HardNegatives
    from eval.metrics.ranking import Ranks, Ties, rank_embeddings, rank_matrix, recall_at_k
    from eval.metrics.reranking import rerank
    from eval.metrics.retrieval import Retrieval, slot_rows
    from eval.results.tables import markdown, table, write_json

_MODULES = {
    "metrics.boxes": ("BoxAccuracy",),
    "metrics.hard_negatives": ("HardNegatives",),
    "metrics.ranking": ("Ranks", "Ties", "rank_embeddings", "rank_matrix", "recall_at_k"),
    "metrics.reranking": ("rerank",),
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
    "rerank",
    "slot_rows",
    "table",
    "write_json",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"eval.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
