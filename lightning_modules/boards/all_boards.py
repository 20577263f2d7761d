"""The boards of a run: one for each of its loggers, several at once. What a logger cannot show is told once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_modules.boards.board import Board, Cell, EmbeddingTable, Kind, Setting
from lightning_modules.boards.files import FileBoard
from lightning_modules.boards.layout import Layout
from lightning_modules.boards.log_image import LogImageBoard
from lightning_modules.boards.mlflow import MlflowBoard
from lightning_modules.boards.tensorboard import TensorBoardBoard
from lightning_modules.boards.weights_and_biases import WandbBoard

BOARDS: dict[type[Logger], type[Board]] = {
    TensorBoardLogger: TensorBoardBoard,
    WandbLogger: WandbBoard,
    CSVLogger: FileBoard,
    MLFlowLogger: MlflowBoard,
}

logger = logging.getLogger("grainclip")


def board_of(run_logger: Logger) -> Board:
    """The board of a logger: by its class, else for images alone where it has ``log_image``, else for numbers alone."""
    for kind, board in BOARDS.items():
        if isinstance(run_logger, kind):
            return board(run_logger)
    return LogImageBoard(run_logger) if callable(getattr(run_logger, "log_image", None)) else Board(run_logger)


class Boards:
    """The loggers of a run.

    Args:
        run_loggers: the trainer's; of a trial run (``fast_dev_run``) none shows anything.
        kinds: what will be shown. It is logged, once, which logger shows none of a kind.
    """

    def __init__(self, run_loggers: Iterable[Logger], kinds: Sequence[Kind] = ()) -> None:
        self.boards = [board_of(one) for one in run_loggers if not isinstance(one, DummyLogger)]
        for board in self.boards:
            if missing := [kind for kind in kinds if kind not in board.kinds]:
                logger.info("%s: no %s, it cannot show them", board.name, " and no ".join(missing))

    def __bool__(self) -> bool:
        return bool(self.boards)

    def show(self, kind: Kind) -> bool:
        """True if any logger shows things of that kind."""
        return any(kind in board.kinds for board in self.boards)

    def image(self, tag: str, png: bytes, step: int) -> None:
        """Show an image, given as a PNG file."""
        for board in self._with("images"):
            board.image(tag, png, step)

    def histogram(self, tag: str, values: Float[np.ndarray, " N"], step: int) -> None:
        """Show the distribution of ``values``."""
        for board in self._with("histograms"):
            board.histogram(tag, values, step)

    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Show a table."""
        for board in self._with("tables"):
            board.table(tag, head, rows, step)

    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        """Show embeddings."""
        for board in self._with("embeddings"):
            board.embeddings(tag, table, step)

    def begin(self, settings: Mapping[str, Setting], layout: Layout) -> None:
        """Show settings and layout of the run."""
        for board in self.boards:
            board.begin(settings, layout)

    def end(self) -> None:
        """Tell all loggers that training has ended."""
        for board in self.boards:
            board.end()

    def _with(self, kind: Kind) -> list[Board]:
        return [board for board in self.boards if kind in board.kinds]
