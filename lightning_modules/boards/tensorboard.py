"""TensorBoard: images, histograms, tables as text, the projector, custom scalars and the HParams tab."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from tensorboard.compat.proto import summary_pb2
from typing_extensions import override

from lightning_modules.boards import hparams
from lightning_modules.boards.board import Board, Cell, EmbeddingTable, Setting
from lightning_modules.boards.layout import Layout

MESSAGES: Any = summary_pb2  # its classes are made when it is imported


class TensorBoardBoard(Board):
    """``TensorBoardLogger``."""

    kinds = frozenset({"images", "histograms", "tables", "embeddings"})

    @property
    def _writer(self) -> Any:
        return self.logger.experiment  # pyright: ignore[reportAttributeAccessIssue]

    @override
    def image(self, tag: str, png: bytes, step: int) -> None:
        """Write a PNG file as it is; the writer's ``add_image`` would compress it again, slowly."""
        width, height = Image.open(io.BytesIO(png)).size
        kind = MESSAGES.Summary
        image = kind.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._writer.file_writer.add_summary(kind(value=[kind.Value(tag=tag, image=image)]), step)

    @override
    def histogram(self, tag: str, values: Float[np.ndarray, " N"], step: int) -> None:
        self._writer.add_histogram(tag, values, step)

    @override
    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        lines = [list(head), ["---"] * len(head), *rows]
        cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
        self._writer.add_text(tag, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)

    @override
    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        """Write all rows into one table of the projector, whose columns can be chosen under "Color by"."""
        rows = [list(row) for row in table.rows]
        self._writer.add_embedding(table.vectors, rows, table.tiles, step, tag, list(table.head))

    @override
    def begin(self, settings: Mapping[str, Setting], layout: Layout) -> None:
        self._writer.add_custom_scalars(layout)
        hparams.begin(self._writer, settings)

    @override
    def end(self) -> None:
        hparams.end(self._writer)
