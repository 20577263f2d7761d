"""The interface between what is drawn during training and the loggers that show it.

A ``Board`` stands for one logger, and names the kinds of things that it shows; ``all_boards`` has those of a run.
Numbers need no board: every logger takes them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import Tensor

from lightning_modules.boards.layout import Layout

Kind: TypeAlias = Literal["images", "histograms", "tables", "embeddings"]
Cell: TypeAlias = str | float
Setting: TypeAlias = str | float | bool


class EmbeddingTable(NamedTuple):
    """Unit vectors, a row of words for each with the names of the columns, and a small image of each in [0, 1]."""

    vectors: Float[Tensor, "N D"]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    tiles: Float[Tensor, "N 3 S S"]


class Board:
    """One logger, and how it shows things. A subclass lists its ``kinds`` and overrides the methods of these.

    Tags are paths with ``/``; ``step`` is the optimiser's.
    """

    kinds: frozenset[Kind] = frozenset()

    def __init__(self, run_logger: Logger) -> None:
        self.logger = run_logger

    @property
    def name(self) -> str:
        """The logger's class."""
        return type(self.logger).__name__

    def image(self, tag: str, png: bytes, step: int) -> None:
        """Show an image, given as a PNG file."""
        raise NotImplementedError

    def histogram(self, tag: str, values: Float[np.ndarray, " N"], step: int) -> None:
        """Show the distribution of ``values``."""
        raise NotImplementedError

    def table(self, tag: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Show a table."""
        raise NotImplementedError

    def embeddings(self, tag: str, table: EmbeddingTable, step: int) -> None:
        """Show embeddings so that they can be explored."""
        raise NotImplementedError

    def begin(self, settings: Mapping[str, Setting], layout: Layout) -> None:
        """Show the run's settings, and where the logger has charts of its own, how curves are laid out in them."""
        del layout
        self.logger.log_hyperparams(dict(settings))

    def end(self) -> None:
        """Do what is due when training has ended."""


def decoded(png: bytes) -> Image.Image:
    """A PNG file as an RGB image."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def file_name(part: str) -> str:
    """A part of a tag as the name of a file or folder."""
    return re.sub(r"[^0-9A-Za-z._-]+", "_", part)
