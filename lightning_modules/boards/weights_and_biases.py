"""Weights & Biases: images, histograms and tables; embeddings as a table with a column for each dimension.

Everything goes through ``WandbLogger.log_metrics``, so that the axis of steps is that of the curves. ``wandb`` is
imported when something is shown: the logger cannot be made without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from lightning_modules.boards.board import Board, Cell, EmbeddingTable, decoded


class WandbBoard(Board):
    """``WandbLogger``."""

    kinds = frozenset({"images", "histograms", "tables", "embeddings"})

    @override
    def image(self, tag: str, png: bytes, step: int) -> None:
        self._log(tag, _wandb().Image(decoded(png)), step)

    @override
    def histogram(self, tag: str, values: Float[np.ndarray, " N"], step: int) -> None:
        self._log(tag, _wandb().Histogram(values), step)

    @override
    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        self._log(tag, _wandb().Table(columns=list(head), data=[list(row) for row in rows]), step)

    @override
    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        dimensions = [f"D{number}" for number in range(table.vectors.shape[1])]
        rows = [[*words, *vector] for words, vector in zip(table.rows, table.vectors.tolist(), strict=True)]
        self._log(tag, _wandb().Table(columns=[*table.head, *dimensions], data=rows), step)

    def _log(self, tag: str, media: Any, step: int) -> None:
        run_logger: Any = self.logger
        run_logger.log_metrics({tag: media}, step)


def _wandb() -> Any:
    return import_module("wandb")
