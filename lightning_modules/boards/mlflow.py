"""MLflow: images by key and step, tables and embeddings as artifacts. It has no histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_modules.boards.board import Board, Cell, EmbeddingTable, decoded, file_name


class MlflowBoard(Board):
    """``MLFlowLogger``."""

    kinds = frozenset({"images", "tables", "embeddings"})

    @override
    def image(self, tag: str, png: bytes, step: int) -> None:
        client, run = self._run()
        client.log_image(run, np.asarray(decoded(png)), key=file_name(tag.replace("/", ".")), step=step)

    @override
    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        client, run = self._run()
        columns = {name: list(column) for name, column in zip(head, zip(*rows, strict=True), strict=True)}
        client.log_dict(run, columns, f"tables/{_path(tag)}/step-{step:08d}.json")

    @override
    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        client, run = self._run()
        rows = [list(row) for row in table.rows]
        content = {"head": list(table.head), "rows": rows, "vectors": table.vectors.tolist()}
        client.log_dict(run, content, f"embeddings/{_path(tag)}/step-{step:08d}.json")

    def _run(self) -> tuple[Any, str]:
        run_logger: Any = self.logger
        return run_logger.experiment, run_logger.run_id


def _path(tag: str) -> str:
    return "/".join(map(file_name, tag.split("/")))
