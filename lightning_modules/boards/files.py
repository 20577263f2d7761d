"""Plain files beside those of a ``CSVLogger``, in folders by kind and tag::

images/attention/sample_1/step-00000440.png
histograms/similarities/caption_positive/step-00000250.csv     low, high, count
tables/results/step-00000440.csv
embeddings/embeddings/step-00000440.npy  and  .csv             vectors, and the words of each row
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from lightning_modules.boards.board import Board, Cell, EmbeddingTable, Kind, file_name

BINS = 64


class FileBoard(Board):
    """``CSVLogger``."""

    kinds = frozenset({"images", "histograms", "tables", "embeddings"})

    @override
    def image(self, tag: str, png: bytes, step: int) -> None:
        self._file("images", tag, step, ".png").write_bytes(png)

    @override
    def histogram(self, tag: str, values: Float[np.ndarray, " N"], step: int) -> None:
        counts, edges = np.histogram(values, bins=BINS)
        rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        _write(self._file("histograms", tag, step, ".csv"), ("low", "high", "count"), list(rows))

    @override
    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        _write(self._file("tables", tag, step, ".csv"), head, rows)

    @override
    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        np.save(self._file("embeddings", tag, step, ".npy"), table.vectors.numpy())
        _write(self._file("embeddings", tag, step, ".csv"), table.head, table.rows)

    def _file(self, kind: Kind, tag: str, step: int, ending: str) -> Path:
        run_logger: Any = self.logger
        folder = Path(run_logger.log_dir, kind, *map(file_name, tag.split("/")))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"step-{step:08d}{ending}"


def _write(file: Path, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([head, *rows])
